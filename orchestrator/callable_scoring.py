"""Scores one candidate with a plain callable that may hang: awaited, in a killable process, or in a thread.

What a callable is given follows from the names of its parameters; `bind` says how.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any, Protocol

from orchestrator.errors import InvalidRequest
from orchestrator.isolation import KillablePool, NotImportable, importable_name
from orchestrator.verifier import Candidate

MAX_ABANDONED_THREADS = 4
_MAX_THREADS = 4
_FIELDS = frozenset(field.name for field in fields(Candidate))


class NoAnswerToScore(Exception):  # a reason, not a fault
    """The callable wants an answer and the candidate has none."""


class ScoresOne(Protocol):
    """Runs a callable for one candidate."""

    @property
    def num_abandoned(self) -> int:
        """Threads that were given up on and still run."""
        ...

    async def __call__(self, candidate: Candidate, timeout_s: float) -> object:
        """What the callable returns, unchecked; raises what it raises, or TimeoutError."""
        ...

    async def aclose(self) -> None:
        """Ends its workers."""
        ...


def scorer_of(function: Callable[..., object]) -> ScoresOne:
    """The safest way to run a callable: awaited if it is async, in a process if another process can import it,
    else (closures, lambdas, methods) in a thread.

    Raises:
        InvalidRequest: Its parameters cannot be filled from a candidate.
    """
    bound = bind(function)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004  # an instance whose class is callable
        return _Awaited(function, bound)
    return _InThread(function, bound) if importable_name(function) is None else _InProcess(function, bound)


Binding = Callable[[Candidate], tuple[object, ...]]


def bind(function: Callable[..., object]) -> Binding:
    """How to get the arguments of ``function`` from a candidate.

    Its required parameters are filled by name if all of them are fields of `Candidate` (``problem``, ``text``,
    ``answer``, ...) or ``candidate``; otherwise its only required parameter, whatever its name, is the candidate.
    One that takes ``answer`` is not called without one.

    Raises:
        InvalidRequest: Neither is possible.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return _whole
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    if any(parameter.kind is parameter.KEYWORD_ONLY and parameter.name in needed for parameter in parameters):
        raise InvalidRequest("a verifier callable takes positional arguments only", field="verifier")
    if needed and all(name in _FIELDS or name == "candidate" for name in needed):
        return _ByName(tuple(needed))
    if len(needed) <= 1:
        return _whole
    raise InvalidRequest(
        f"a verifier callable takes one candidate, or parameters named like its fields, not ({', '.join(needed)})",
        field="verifier",
    )


def _whole(candidate: Candidate) -> tuple[object, ...]:
    return (candidate,)


class _ByName:
    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def __call__(self, candidate: Candidate) -> tuple[object, ...]:
        if "answer" in self._names and candidate.answer is None:
            raise NoAnswerToScore
        return tuple(candidate if name == "candidate" else getattr(candidate, name) for name in self._names)


class _Awaited:
    num_abandoned = 0

    def __init__(self, function: Callable[..., Any], bound: Binding) -> None:  # Any: an awaitable of anything
        self._function, self._bound = function, bound

    async def __call__(self, candidate: Candidate, timeout_s: float) -> object:
        arguments = self._bound(candidate)
        async with asyncio.timeout(timeout_s):
            awaitable: Awaitable[object] = self._function(*arguments)
            return await awaitable

    async def aclose(self) -> None:
        pass


class _InProcess:
    def __init__(self, function: Callable[..., object], bound: Binding) -> None:
        self._function, self._bound = function, bound
        self._pool = KillablePool()
        self._fallback: _InThread | None = None

    @property
    def num_abandoned(self) -> int:
        return self._fallback.num_abandoned if self._fallback else 0

    async def __call__(self, candidate: Candidate, timeout_s: float) -> object:
        if self._fallback is None:
            try:
                return await self._pool.run(self._function, *self._bound(candidate), timeout_s=timeout_s)
            except NotImportable:  # its module was made at run time, or is a test's
                self._fallback = self._fallback or _InThread(self._function, self._bound)
        return await self._fallback(candidate, timeout_s)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _InThread:
    """One daemon thread per call, so that neither a later call nor the end of the program waits for one that hangs."""

    def __init__(self, function: Callable[..., object], bound: Binding) -> None:
        self._function, self._bound = function, bound
        self._abandoned: list[threading.Thread] = []
        self._turns: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    @property
    def num_abandoned(self) -> int:
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        return len(self._abandoned)

    async def __call__(self, candidate: Candidate, timeout_s: float) -> object:
        arguments = self._bound(candidate)
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not loop:
            self._turns = loop, asyncio.Semaphore(_MAX_THREADS)
        async with self._turns[1]:
            if self.num_abandoned >= MAX_ABANDONED_THREADS:
                raise TimeoutError
            return await self._in_thread(arguments, timeout_s)

    async def _in_thread(self, arguments: tuple[object, ...], timeout_s: float) -> object:
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

        def deliver(value: object, error: BaseException | None) -> None:
            if not finished.done():
                finished.set_result((value, error))

        def call() -> None:
            value: object = None
            failure: BaseException | None = None
            try:
                value = self._function(*arguments)
            except BaseException as error:  # noqa: BLE001  # raised again where the call is awaited
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed since
                loop.call_soon_threadsafe(deliver, value, failure)

        thread = threading.Thread(target=call, name="verifier", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(timeout_s):
                value, error = await finished
        except BaseException:
            self._abandoned.append(thread)
            raise
        if isinstance(error, Exception):
            raise error
        if error is not None:  # SystemExit and its like would end the event loop
            raise RuntimeError(f"it raised {type(error).__name__}") from error
        return value

    async def aclose(self) -> None:
        pass
