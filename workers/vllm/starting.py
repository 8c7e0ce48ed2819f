"""Starts vLLM: its arguments, the environment that it and its processes read, and what its log says when it fails."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import VllmSettings
from orchestrator.errors import MissingDependency
from orchestrator.workers.vllm import failures
from orchestrator.workers.vllm.arguments import engine_arguments
from orchestrator.workers.vllm.counters import SchedulerCounters, StatLogger

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

_ENVIRONMENT = threading.Lock()
"""Invariant: the process's environment is changed for one start at a time, and is as before when it is free."""
_LOG_TAIL_BYTES = 262_144


def start_vllm(model: str, settings: VllmSettings, name: str, counters: SchedulerCounters) -> AsyncLLM:
    """Loads the model; blocks for half a minute or more.

    Raises:
        MissingDependency: vLLM is not installed.
        TtcError: As `failures.of_start` maps it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ttc-vllm-"))
    log = settings.log or folder / "vllm.log"
    start_of_log = log.stat().st_size if log.exists() else 0
    try:
        with _ENVIRONMENT, _environment(settings, folder, log):
            try:
                from vllm.engine.arg_utils import AsyncEngineArgs
                from vllm.v1.engine.async_llm import AsyncLLM
            except ImportError as error:
                raise MissingDependency(package="vllm", extra="vllm", purpose="the vLLM engine") from error
            try:
                args = AsyncEngineArgs(**engine_arguments(model, settings))
                logger = lambda _config, _index=0: StatLogger(counters)  # noqa: E731  # vLLM tells factories from classes
                quiet = type("QuietLLM", (AsyncLLM,), {"__del__": _not_when_python_ends(AsyncLLM.__del__)})
                llm: AsyncLLM = quiet.from_engine_args(args, stat_loggers=[logger])  # type: ignore[attr-defined]  # made above
                return llm
            except Exception as error:
                raise failures.of_start(error, _tail(log, start_of_log), model=name) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # processes that have the log open go on writing to nothing


def _not_when_python_ends(finalise: Callable[[AsyncLLM], None]) -> Callable[[AsyncLLM], None]:
    """The finaliser of vLLM, but for the end of Python, where it fails with a trace on the user's terminal."""

    def ended(llm: AsyncLLM) -> None:
        if not sys.is_finalizing():
            finalise(llm)

    return ended


@contextmanager
def _environment(settings: VllmSettings, folder: Path, log: Path) -> Iterator[None]:
    """Variables that vLLM and the processes it starts read; what the user has set stays."""
    config = folder / "logging.json"
    config.write_text(json.dumps(_logging_config(log)), encoding="utf-8")
    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_CONFIG_PATH": str(config)}
    if settings.cpu_cores:
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = settings.cpu_cores
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    python = spawn.get_executable()
    quiet = _quiet_python(folder, log)
    os.environ.update(added)
    if os.access(quiet, os.X_OK):  # a temporary folder may not be for programs
        spawn.set_executable(str(quiet))
    try:
        yield
    finally:
        spawn.set_executable(python)
        for name in added:
            os.environ.pop(name, None)


def _quiet_python(folder: Path, log: Path) -> Path:
    """A Python whose output goes to the log: vLLM's processes write traces and progress bars to a user's terminal."""
    script = folder / "python"
    log_path, python = shlex.quote(str(log.absolute())), shlex.quote(sys.executable)
    script.write_text(f'#!/bin/sh\nexec {python} "$@" >>{log_path} 2>&1\n', encoding="utf-8")
    script.chmod(0o700)
    return script


def _logging_config(log: Path) -> dict[str, Any]:  # Any: as `logging.config.dictConfig` takes it
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(log), "formatter": "plain"}},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }


def _tail(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
