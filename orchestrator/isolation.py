"""Warm, killable worker processes for functions that may hang, crash or eat memory.

This protects the event loop and the clock, not secrets: workers run with the rights of the parent. Code written by a
model belongs in a sandbox. POSIX only.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from orchestrator.errors import RunFailure
from orchestrator.isolation_process import WorkerDied, WorkerProcess

__all__ = ["KillablePool", "NotImportable", "RemoteError", "WorkerDied", "importable_name"]

T = TypeVar("T")

_STARTING = "the start of a worker"


class RemoteError(RunFailure):
    """The function raised an exception.

    Attributes:
        type_name: Name of the exception's class.
        reason: The exception's own message, shortened.
    """

    code = "remote_error"

    def __init__(self, *, function: str, type_name: str, reason: str) -> None:
        super().__init__(
            f"{function} raised {type_name}: {reason}", function=function, type_name=type_name, reason=reason
        )
        self.type_name = type_name
        self.reason = reason


class NotImportable(RemoteError):
    """The worker could not import the function, its arguments' classes, or a module to preload."""

    code = "not_importable"


def importable_name(fn: Callable[..., object]) -> str | None:
    """``module:qualname`` if importing that gives ``fn`` itself; None for closures, lambdas, scripts, instances."""
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return None
    found: object = sys.modules.get(module)
    for part in qualname.split("."):  # "<locals>" and "<lambda>" are never attributes
        found = getattr(found, part, None)
    return f"{module}:{qualname}" if found is fn else None


class KillablePool:
    """Runs functions in other processes, one call at a time in each, and kills those that take too long.

    Processes start when they are first needed and stay warm. One that times out, crashes, or whose caller is
    cancelled is killed with its whole process group; the next call starts another. They die with this process. A pool
    may be used from several event loops one after the other, not from two at once.

    Args:
        num_workers: Most processes at a time; further calls wait for one in the order in which they came.
        preload: Modules each process imports when it starts.
        memory_bytes: Most address space of each process (RLIMIT_AS); None for no limit.
        start_timeout_s: Most seconds a process may take to start and preload.
    """

    def __init__(
        self,
        *,
        num_workers: int = 1,
        preload: Sequence[str] = (),
        memory_bytes: int | None = None,
        start_timeout_s: float = 60.0,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, not {num_workers}")
        self._num_workers = num_workers
        self._preload = tuple(preload)
        self._memory_bytes = memory_bytes
        self._start_timeout_s = start_timeout_s
        self._idle: list[WorkerProcess] = []
        self._leased: set[WorkerProcess] = set()
        self._num_leased = 0  # slots taken, including those whose worker has not been started yet
        self._dying: list[WorkerProcess] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    async def run(self, fn: Callable[..., T], *args: object, timeout_s: float) -> T:
        """What ``fn(*args)`` returns.

        Args:
            fn: A function for which `importable_name` is not None.
            *args: Values that can be pickled.
            timeout_s: Counted from when the call is handed to a started worker: neither waiting for a free worker
                nor starting one counts.

        Raises:
            TimeoutError: It took longer; the worker has been killed.
            RemoteError: It raised.
            NotImportable: The worker could not import it.
            WorkerDied: The process ended.
            ValueError: ``fn`` cannot be imported by name.
            TypeError, AttributeError, pickle.PicklingError: An argument cannot be pickled.
        """
        name, request = _request(fn, args)
        await self._take_slot()
        try:
            worker = await self._lease()
            try:
                async with asyncio.timeout(timeout_s):
                    reply = await worker.exchange(request, name)
            except BaseException:
                self._discard(worker)
                raise
            self._leased.discard(worker)
            self._idle.append(worker)
        finally:
            self._free_slot()
        _raise_failure(reply, name)
        value: T = _value(reply, name)
        return value

    def run_blocking(self, fn: Callable[..., T], *args: object, timeout_s: float) -> T:
        """Like `run`, but blocks the calling thread and never waits for a free worker: it takes an idle one or starts
        one more. Only for calls that are much shorter than starting a process (about 0.03 s).

        Raises:
            The same as `run`.
        """
        name, request = _request(fn, args)
        worker = self._idle_worker()
        try:
            if worker is None:
                worker = self._new_worker()
                ready = worker.exchange_blocking(self._setup(), _STARTING, timeout_s=self._start_timeout_s)
                _raise_failure(ready, _STARTING)
            reply = worker.exchange_blocking(request, name, timeout_s=timeout_s)
        except BaseException:
            if worker is not None:
                self._discard(worker)
            raise
        self._leased.discard(worker)
        self._idle.append(worker)
        _raise_failure(reply, name)
        value: T = _value(reply, name)
        return value

    async def warm(self) -> None:
        """Starts one worker if none is idle, so that the next call need not wait for it."""
        if self._idle or self._num_leased >= self._num_workers or self._is_closed:
            return
        await self._take_slot()
        try:
            worker = await self._lease()
            self._leased.discard(worker)
            self._idle.append(worker)
        finally:
            self._free_slot()

    async def aclose(self) -> None:
        """Kills all workers; running calls end in `WorkerDied`. Safe to call twice."""
        self._is_closed = True
        while self._waiting:
            self._wake_one()
        for worker in (*self._idle, *self._leased):
            self._discard(worker)
        while self._dying:
            self._reap()
            await asyncio.sleep(0.002)

    async def _take_slot(self) -> None:
        if self._num_leased >= self._num_workers:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn  # the slot is handed over: _num_leased already counts it
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._free_slot()
                elif turn in self._waiting:
                    self._waiting.remove(turn)
                raise
        else:
            self._num_leased += 1

    def _free_slot(self) -> None:
        self._num_leased -= 1
        if self._num_leased < self._num_workers:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done() and not turn.get_loop().is_closed():
                self._num_leased += 1
                turn.set_result(None)
                return

    async def _lease(self) -> WorkerProcess:
        if (worker := self._idle_worker()) is not None:
            return worker
        worker = self._new_worker()
        try:
            async with asyncio.timeout(self._start_timeout_s):
                ready = await worker.exchange(self._setup(), _STARTING)
            _raise_failure(ready, _STARTING)
        except BaseException:
            self._discard(worker)
            raise
        return worker

    def _idle_worker(self) -> WorkerProcess | None:
        if self._is_closed:
            raise RuntimeError("the pool is closed")
        self._reap()
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                self._leased.add(worker)
                return worker
            self._discard(worker)
        return None

    def _new_worker(self) -> WorkerProcess:
        worker = WorkerProcess()
        self._leased.add(worker)
        return worker

    def _setup(self) -> bytes:
        path = [entry or os.getcwd() for entry in sys.path]
        return pickle.dumps({"sys_path": path, "preload": self._preload, "memory_bytes": self._memory_bytes})

    def _discard(self, worker: WorkerProcess) -> None:
        self._leased.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if worker not in self._dying:
            worker.kill()
            self._dying.append(worker)

    def _reap(self) -> None:
        self._dying = [worker for worker in self._dying if worker.is_alive()]


def _request(fn: Callable[..., object], args: tuple[object, ...]) -> tuple[str, bytes]:
    name = importable_name(fn)
    if name is None:
        raise ValueError(f"{fn!r} cannot be imported by name; pass a function defined at the top of a module")
    module, _, qualname = name.partition(":")
    return name, pickle.dumps((module, qualname, pickle.dumps(args, protocol=pickle.HIGHEST_PROTOCOL)))


def _raise_failure(reply: tuple[object, ...], function: str) -> None:
    if reply[0] in {"error", "unimportable"}:
        kind = RemoteError if reply[0] == "error" else NotImportable
        raise kind(function=function, type_name=str(reply[1]), reason=str(reply[2]))


def _value(reply: tuple[object, ...], function: str) -> Any:  # Any: whatever the function returned
    pickled = reply[1]
    assert isinstance(pickled, bytes)
    try:
        return pickle.loads(pickled)  # noqa: S301  # from our own child
    except Exception as error:  # the classes of the result may exist in the worker only
        reason = f"its result cannot be read back: {error}"
        raise RemoteError(function=function, type_name=type(error).__name__, reason=reason) from error
