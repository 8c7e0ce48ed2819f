"""Where the catalogue keeps files and what it may do."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueSettings:
    """The part of the configuration (`orchestrator.config.Settings`) that the catalogue uses.

    Attributes:
        cache_dir: Folder of everything this package downloads; models lie in its subfolder ``models``. By default
            ``ttc`` in the platform's cache folder.
        catalogue: A TOML file whose models are added to ours; entries of the same name replace ours.
        offline: Never use the network: only what is in the cache, and sources of kind ``file``.
    """

    cache_dir: Path | None = None
    catalogue: Path | None = None
    offline: bool = False

    @classmethod
    def from_environment(cls) -> CatalogueSettings:
        """As ``TTC_CACHE_DIR``, ``TTC_CATALOGUE``, ``TTC_OFFLINE`` and the configuration file have them.

        Raises:
            InvalidRequest: One of them has a value that cannot be used; names it.
        """
        settings = read_settings()
        return cls(cache_dir=settings.cache_dir, catalogue=settings.catalogue, offline=settings.offline)

    @property
    def models_dir(self) -> Path:
        """Where model files lie."""
        return (self.cache_dir or _platform_cache_dir()).expanduser() / "models"


def _platform_cache_dir() -> Path:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ttc"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ttc"
    return Path.home() / ".cache" / "ttc"
