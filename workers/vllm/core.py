"""vLLM itself: started in this process with its core in another, its log in a file, its statistics added up."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import VllmSettings
from orchestrator.errors import MissingDependency, TtcError
from orchestrator.workers.vllm import failures
from orchestrator.workers.vllm.arguments import engine_arguments
from orchestrator.workers.vllm.asking import prompt_input
from orchestrator.workers.vllm.counters import SchedulerCounters, StatLogger

if TYPE_CHECKING:
    from vllm.outputs import PoolingRequestOutput, RequestOutput
    from vllm.pooling_params import PoolingParams
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

_LOG = logging.getLogger(__name__)
_ENVIRONMENT = threading.Lock()
"""Invariant: the process's environment is changed for one start at a time, and is as before when it is free."""
_LOG_TAIL_BYTES = 262_144
_SHUTDOWN_S = 10.0


class Core:
    """A running vLLM; made by `start`.

    Attributes:
        llm: vLLM's own front.
        tasks: What the model can do, as vLLM names it.
        counters: The scheduler's.
    """

    def __init__(self, llm: AsyncLLM, *, name: str, tasks: frozenset[str], counters: SchedulerCounters) -> None:
        self.llm = llm
        self.tasks = tasks
        self.counters = counters
        self._name = name
        self._is_closed = self._is_shut_down = False
        self._closing = asyncio.Lock()  # invariant: vLLM is shut down once

    @classmethod
    async def start(cls, model: str, settings: VllmSettings, *, name: str) -> Core:
        """Loads the model; takes from half a minute on.

        Raises:
            MissingDependency: vLLM is not installed.
            InvalidRequest: An engine argument that vLLM does not know or take.
            ModelUnavailable: There is no such model.
            EngineFailed: It did not start: no memory, a device that is not there, weights that do not fit.
        """
        counters = SchedulerCounters()
        llm = await asyncio.to_thread(_start, model, settings, name, counters)
        try:
            tasks = frozenset(await llm.get_supported_tasks())
        except BaseException:
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_S)
            raise
        return cls(llm, name=name, tasks=tasks, counters=counters)

    @property
    def trouble(self) -> str:
        """Why no request would be served; empty if one would."""
        if self._is_closed:
            return failures.closed(self._name).message
        return failures.died(self._name).message if self.llm.errored else ""

    @property
    def num_unfinished(self) -> int:
        """Requests that vLLM holds."""
        return int(self.llm.get_num_unfinished_requests())

    def require_running(self) -> None:
        """Refuses work that would not be done.

        Raises:
            EngineFailed: Closed, or dead.
        """
        if self._is_closed:
            raise failures.closed(self._name)
        if self.llm.errored:
            raise failures.died(self._name)

    def require_room(self, num_sequences: int) -> None:
        """Refuses work beyond the limits of admission.

        Raises:
            EngineFailed: They are reached; retryable.
        """
        self.require_running()
        try:
            self.llm.check_admission(num_sequences)
        except Exception as error:
            raise failures.of_request(error, model=self._name) from error

    async def generate(
        self, ids: Sequence[int], params: SamplingParams, request_id: str, *, priority: int = 0, cache_salt: str = ""
    ) -> AsyncIterator[RequestOutput]:
        """What vLLM samples; closing the iterator aborts the request.

        Raises:
            TtcError: As `failures.of_request` maps it.
        """
        self.require_running()
        stream = self.llm.generate(prompt_input(ids, cache_salt=cache_salt), params, request_id, priority=priority)
        try:
            async for output in stream:
                yield output
        except Exception as error:
            raise self._failure(error) from error
        finally:
            await stream.aclose()

    async def pool(self, ids: Sequence[int], params: PoolingParams, request_id: str) -> PoolingRequestOutput:
        """What a pooling model makes of a prompt.

        Raises:
            TtcError: As `failures.of_request` maps it.
        """
        self.require_room(1)
        stream = self.llm.encode(prompt_input(ids), params, request_id)
        result = None
        try:
            async for output in stream:
                result = output
        except Exception as error:
            raise self._failure(error) from error
        finally:
            await stream.aclose()
        if result is None:
            raise failures.died(self._name)
        return result

    def stop_serving(self) -> None:
        """From now on requests are refused as those of a closed engine."""
        self._is_closed = True

    async def aclose(self) -> None:
        """Ends vLLM and its processes; safe to call twice."""
        self.stop_serving()
        async with self._closing:
            if not self._is_shut_down:
                self._is_shut_down = True
                await asyncio.to_thread(self.llm.shutdown, _SHUTDOWN_S)

    def _failure(self, error: Exception) -> TtcError:
        if self._is_closed:
            return failures.closed(self._name)
        return failures.died(self._name) if self.llm.errored else failures.of_request(error, model=self._name)


def _start(model: str, settings: VllmSettings, name: str, counters: SchedulerCounters) -> AsyncLLM:
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
                return AsyncLLM.from_engine_args(args, stat_loggers=[logger])
            except Exception as error:
                raise failures.of_start(error, _tail(log, start_of_log), model=name) from error
    finally:
        if settings.log is None and not _LOG.isEnabledFor(logging.DEBUG):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(settings: VllmSettings, folder: Path, log: Path) -> Iterator[None]:
    """Variables that vLLM and the processes it starts read; what the user has set stays."""
    config = folder / "logging.json"
    config.write_text(json.dumps(_logging_config(log)), encoding="utf-8")
    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_CONFIG_PATH": str(config)}
    if settings.cpu_cores:
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = settings.cpu_cores
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
