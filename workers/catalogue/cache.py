"""The folder of model files: where each lies, who may write, and how a verified file gets its place at once.

Layout of the folder: ``NAME-HASH/FILE`` for finished files (HASH is the start of the pinned SHA-256, so that a
changed pin never finds the old file), ``.staging/NAME-HASH/`` for downloads under way, ``.locks/NAME-HASH``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.workers.catalogue.entries import ModelEntry
from orchestrator.workers.catalogue.progress import Report

_LOCK_POLL_S = 0.2
_CHUNK_BYTES = 1 << 20


class ModelCache:
    """Owns one folder of models; any number of processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def location(self, entry: ModelEntry) -> Path:
        """Where the model's file is or will be."""
        return self.folder / _key(entry) / entry.file

    def staging(self, entry: ModelEntry) -> Path:
        """Folder of the model's unfinished downloads; whoever holds the lock owns it."""
        return self.folder / ".staging" / _key(entry)

    def has(self, entry: ModelEntry) -> bool:
        """Whether the file is there: placed after verification, and still of the pinned length."""
        try:
            return self.location(entry).stat().st_size == entry.size_bytes
        except OSError:
            return False

    def place(self, entry: ModelEntry, verified: Path) -> Path:
        """Moves a verified file to its place, durably and in one step, and clears the staging folder."""
        target = self.location(entry)
        target.parent.mkdir(parents=True, exist_ok=True)
        _fsync(verified)
        verified.replace(target)
        _fsync(target.parent)
        _fsync(self.folder)
        shutil.rmtree(self.staging(entry), ignore_errors=True)
        return target

    def remove(self, entry: ModelEntry) -> int:
        """Deletes the model and its unfinished downloads; the bytes this frees, 0 if there were none."""
        freed = 0
        for folder in (self.location(entry).parent, self.staging(entry)):
            freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    @contextlib.contextmanager
    def lock(self, entry: ModelEntry, *, on_wait: Callable[[], None]) -> Iterator[None]:
        """Held by the one process and thread that writes this model; released when the process dies.

        Args:
            entry: The model.
            on_wait: Called several times a second while another holds the lock; an exception from it ends the wait.
        """
        folder = self.folder / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _key(entry), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    on_wait()
                    time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)


def sha256_of(path: Path, *, report: Report = lambda _: None) -> str:
    """SHA-256 of a file in lower-case hexadecimal."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            report(done)
    return digest.hexdigest()


def _key(entry: ModelEntry) -> str:
    return f"{entry.name}-{entry.sha256[:12]}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
