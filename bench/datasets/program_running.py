"""Runs programs that a model wrote, in a process of their own that can be killed, under limits of time and memory.

This is no sandbox. A program runs with the rights of whoever started the benchmark: it can read what they can read, and
it can use the network. It has to be allowed (`require_permission`), which is right inside a container or a virtual
machine that holds nothing of value. POSIX only.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import InvalidRequest

PERMISSION_VARIABLE = "TTC_BENCH_RUN_CODE"
_CHILD = Path(__file__).with_name("program_child.py")
_FILE_BYTES = 1 << 20
_MAX_RESULT_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_s: Seconds of CPU time, so that a verdict does not depend on what else the machine does.
        timeout_s: Seconds on the clock, for programs that wait; many more, for the same reason.
        memory_bytes: Address space.
    """

    cpu_s: int = 10
    timeout_s: float = 300.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether all parts of a program ran to their end, and what stopped it if not."""

    has_finished: bool
    reason: str = ""


def require_permission(set_name: str, *, is_allowed: bool) -> None:
    """Refuses unless programs may be run, by argument or by ``TTC_BENCH_RUN_CODE=1``.

    Raises:
        InvalidRequest: They may not.
    """
    if not is_allowed and os.environ.get(PERMISSION_VARIABLE) != "1":
        raise InvalidRequest(
            f"answers to {set_name} are judged by running them: programs that a model wrote, with your rights and no "
            f"sandbox around them; where that is acceptable, set {PERMISSION_VARIABLE}=1 (in Python: "
            "allow_code_execution=True)",
            field="allow_code_execution",
            value=False,
        )


def run_program(parts: Sequence[str], *, limits: Limits | None = None) -> Outcome:
    """Runs the parts one after the other in one namespace; each is compiled by itself, when its turn comes.

    The working folder is empty and goes away afterwards; there is no input, output is dropped, and no variable of the
    environment is passed on. Strings hash the same in every run. On Linux and without root's rights, no other process
    can be started. Blocks; may be called from several threads at once.

    Args:
        parts: Python source, for instance a candidate and its tests.
        limits: What it may use.
    """
    limits = limits or Limits()
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="ttc-program-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "work").mkdir()
        job = {
            "parts": list(parts),
            "word": word,
            "cpu_s": limits.cpu_s,
            "timeout_s": limits.timeout_s,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": _FILE_BYTES,
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        ended = _run_child(folder, limits)
        return ended or _outcome(folder / "result.json", word)


def _run_child(folder: Path, limits: Limits) -> Outcome | None:
    """None if the process ended by itself and there may be a result."""
    process = subprocess.Popen(  # noqa: S603  # our own interpreter and file
        # not -I, which would ignore PYTHONHASHSEED; the environment and the path are as clean without it
        [sys.executable, "-P", "-s", "-B", str(_CHILD), str(folder / "job.json"), str(folder / "result.json")],
        cwd=folder / "work",
        env={"PATH": os.defpath, "HOME": str(folder / "work"), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = process.wait(limits.timeout_s)
    except subprocess.TimeoutExpired:
        return Outcome(has_finished=False, reason=f"took longer than {limits.timeout_s:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of its group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == -signal.SIGXCPU:
        return Outcome(has_finished=False, reason=f"took more than {limits.cpu_s} s of CPU time")
    return Outcome(has_finished=False, reason=f"ended with code {code}") if code else None


def _outcome(path: Path, word: str) -> Outcome:
    """A program that ends itself, or that writes a result of its own, does not know the word."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            result = json.loads(file.read(_MAX_RESULT_CHARS))
        if result["word"] == word:
            return Outcome(has_finished=True)
        return Outcome(has_finished=False, reason=str(result["error"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Outcome(has_finished=False, reason="ended before its last part")
