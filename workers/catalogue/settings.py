"""Where the catalogue keeps files and what it may do, read once from the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.errors import InvalidRequest


class CatalogueSettings(BaseSettings):
    """Settings of the catalogue; each field is an environment variable with the prefix ``TTC_``.

    Attributes:
        cache_dir: Folder of everything this package downloads; models lie in its subfolder ``models``. By default
            ``ttc`` in the platform's cache folder.
        catalogue: A TOML file whose models are added to ours; entries of the same name replace ours.
        offline: Never use the network: only what is in the cache, and sources of kind ``file``.
    """

    model_config = SettingsConfigDict(env_prefix="TTC_", frozen=True, extra="ignore")

    cache_dir: Path | None = None
    catalogue: Path | None = None
    offline: bool = False

    @classmethod
    def from_environment(cls) -> CatalogueSettings:
        """The settings as the environment has them.

        Raises:
            InvalidRequest: A variable has a value that cannot be used; names it.
        """
        try:
            return cls()
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name = "TTC_" + "_".join(map(str, problem["loc"])).upper()
            raise InvalidRequest(
                f"{name}={problem['input']!r}: {problem['msg']}", field=name, value=problem["input"]
            ) from error

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
