"""A running vLLM: its front in this process, its core in another, which is started again when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.config import VllmSettings
from orchestrator.errors import TtcError
from orchestrator.workers.vllm import failures
from orchestrator.workers.vllm.asking import prompt_input
from orchestrator.workers.vllm.counters import SchedulerCounters
from orchestrator.workers.vllm.starting import start_vllm

if TYPE_CHECKING:
    from vllm.outputs import PoolingRequestOutput, RequestOutput
    from vllm.pooling_params import PoolingParams
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

_LOG = logging.getLogger(__name__)
_MOST_STARTS = 3
"""Starts that may fail, or cores that may die, in a row; one that has lived for `_STABLE_S` begins a new row."""
_STABLE_S = 600.0
_PATIENCE_S = 90.0
"""How long a request waits for a core that is being started again."""


class Core:
    """A running vLLM; made by `start`.

    Args:
        llm: vLLM's own front.
        name: The model's; for errors.
        counters: Which the scheduler's statistics are added to.
        restart: Makes another one when this one's core has died; blocks.
        stable_s: Who has lived for so long has no record of deaths.

    Attributes:
        llm: vLLM's own front.
        tasks: What the model can do, as vLLM names it.
        counters: The scheduler's.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        *,
        name: str,
        counters: SchedulerCounters,
        restart: Callable[[], AsyncLLM],
        stable_s: float = _STABLE_S,
    ) -> None:
        self.llm = llm
        self.tasks: frozenset[str] = frozenset()
        self.counters = counters
        self._name = name
        self._restart = restart
        self._stable_s = stable_s
        self._is_closed = self._is_shut_down = False
        self._closing = asyncio.Lock()  # invariant: vLLM is shut down once
        self._revival: asyncio.Task[None] | None = None
        self._num_deaths = 0
        self._started_at = asyncio.get_running_loop().time()

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
        start = partial(start_vllm, model, settings, name, counters)
        core = cls(await asyncio.to_thread(start), name=name, counters=counters, restart=start)
        try:
            core.tasks = frozenset(await core.llm.get_supported_tasks())
        except BaseException:
            await core.aclose()
            raise
        return core

    @property
    def trouble(self) -> str:
        """Why no request would be served; empty if one would."""
        if self._is_closed:
            return failures.closed(self._name).message
        return failures.died(self._name).message if self.llm.errored else ""

    async def ready(self, *, within_s: float | None = None) -> None:
        """Returns when requests are served; a core that has died is started again, and waited for.

        Args:
            within_s: Wait no longer; a minute and a half at most.

        Raises:
            EngineFailed: Closed; or dead, and not back in time (retryable), or for good.
        """
        if self._is_closed:
            raise failures.closed(self._name)
        if not self.llm.errored:
            return
        if self._revival is None or self._revival.done():
            if asyncio.get_running_loop().time() - self._started_at > self._stable_s:
                self._num_deaths = 0
            if self._num_deaths >= _MOST_STARTS:
                raise failures.died(self._name, is_for_good=True)
            # Not in a task group: it serves whoever asks next, and ends with the engine (see `aclose`).
            self._revival = asyncio.create_task(self._revive(), name=f"start vllm {self._name}")
        patience_s = _PATIENCE_S if within_s is None else min(within_s, _PATIENCE_S)
        await asyncio.wait([self._revival], timeout=patience_s)
        self.require_running()

    async def _revive(self) -> None:
        self._num_deaths += 1
        _LOG.warning("vLLM's core has died and is started again", extra={"model": self._name})
        try:
            await asyncio.to_thread(self.llm.shutdown)
            llm = await asyncio.to_thread(self._restart)
            await llm.get_supported_tasks()
        except TtcError as error:
            _LOG.error("vLLM could not be started again: %s", error, extra={"model": self._name})
            return
        self.llm = llm
        self._started_at = asyncio.get_running_loop().time()

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
    ) -> AsyncGenerator[RequestOutput, None]:
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
                if self._revival is not None:
                    await asyncio.wait([self._revival])  # a start in another thread cannot be broken off
                await asyncio.to_thread(self.llm.shutdown)

    def _failure(self, error: Exception) -> TtcError:
        if self._is_closed:
            return failures.closed(self._name)
        return failures.died(self._name) if self.llm.errored else failures.of_request(error, model=self._name)
