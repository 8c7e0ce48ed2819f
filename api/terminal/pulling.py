"""Pulls model files with a progress bar on stderr; for ``ttc models pull``, and before a job that needs a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.models import DEFAULT_ENGINE, split_model
from orchestrator.workers.catalogue import Catalogue, Progress, ProgressCallback, SourceKind

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

_STAGE_WORDS = {"waiting": "waiting for another pull", "downloading": "downloading", "verifying": "verifying SHA-256"}


def pull_all(
    catalogue: Catalogue, names: Sequence[str], *, sources: Sequence[SourceKind] = (), is_quiet: bool = False
) -> None:
    """Downloads what the cache lacks, one model after the other.

    Raises:
        UnknownName: No model has such a name.
        ModelUnavailable: No source could deliver one.
    """
    with _progress(is_quiet=is_quiet) as progress:
        for name in names:
            catalogue.pull(name, sources=list(sources) or None, progress=progress)


def pull_missing(models: Sequence[str], *, is_quiet: bool) -> None:
    """Pulls those of the given models that are catalogue names without a file; all others are left to their engine.

    Raises:
        ModelUnavailable: No source could deliver one; with ``TTC_OFFLINE``, none that needs the network is tried.
    """
    targets = [target for engine, target in map(split_model, models) if engine == DEFAULT_ENGINE]
    if not targets:
        return
    catalogue = Catalogue.from_environment()
    known = {entry.name for entry in catalogue}
    missing = [name for name in dict.fromkeys(targets) if name in known and not catalogue.is_pulled(name)]
    if missing:
        pull_all(catalogue, missing, is_quiet=is_quiet)


@contextlib.contextmanager
def _progress(*, is_quiet: bool) -> Iterator[ProgressCallback]:
    if is_quiet or not sys.stderr.isatty():
        yield _announced(print_to=None if is_quiet else lambda line: print(line, file=sys.stderr, flush=True))
        return
    with _bar() as bar:
        yield _shown_on(bar)


def _announced(*, print_to: Callable[[str], None] | None) -> ProgressCallback:
    """One line per model and stage where there is no terminal for a bar."""
    seen: set[tuple[str, str, str]] = set()

    def show(progress: Progress) -> None:
        key = (progress.model, progress.stage, progress.source)
        if print_to is None or progress.stage == "done" or key in seen:
            return
        seen.add(key)
        where = f" from {progress.source}" if progress.source else ""
        print_to(f"model {progress.model}: {_STAGE_WORDS[progress.stage]}{where}, {progress.total_bytes / 1e6:,.0f} MB")

    return show


def _bar() -> ProgressBar:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as ProgressBar

    return ProgressBar(
        TextColumn("{task.fields[model]}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
    )


def _shown_on(bar: ProgressBar) -> ProgressCallback:
    """One line per model and stage; stages come one after the other."""
    lines: dict[tuple[str, str], Any] = {}  # Any: rich's TaskID is private to its bar

    def show(progress: Progress) -> None:
        if progress.stage == "done":
            return
        key = (progress.model, progress.stage)
        words = _STAGE_WORDS[progress.stage]
        description = f"{words} from {progress.source}" if progress.stage == "downloading" else words
        if key not in lines:
            lines[key] = bar.add_task(description, total=progress.total_bytes, model=progress.model)
        bar.update(lines[key], completed=progress.done_bytes, description=description)

    return show
