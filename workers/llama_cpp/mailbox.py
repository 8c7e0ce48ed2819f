"""Commands from other threads to the decode thread, and the bell that wakes it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from orchestrator.workers.llama_cpp.outbox import post

_T = TypeVar("_T")


class Mailbox:
    """What the decode thread is told; commands keep their order.

    Args:
        closed_error: Says why nothing can be asked any more.
    """

    def __init__(self, closed_error: Callable[[], Exception]) -> None:
        self._closed_error = closed_error
        self._commands: deque[Callable[[], None]] = deque()
        self._bell = threading.Event()
        self._gate = threading.Lock()  # invariant: no command is added once the mailbox is sealed
        self._is_sealed = False

    def submit(self, command: Callable[[], None]) -> bool:
        """Runs ``command`` in the thread before its next batch.

        Returns:
            False if the thread has ended: the command will not run.
        """
        with self._gate:
            if self._is_sealed:
                return False
            self._commands.append(command)
        self._bell.set()
        return True

    async def call(self, function: Callable[[], _T]) -> _T:
        """The result of ``function``, run in the thread.

        Raises:
            EngineFailed: The engine is closed.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()

        def settle(act: Callable[[], None]) -> None:
            if not result.done():
                act()

        def run() -> None:
            try:
                value = function()
            except Exception as error:  # noqa: BLE001  handed to the caller
                failure = error
                post(loop, lambda: settle(lambda: result.set_exception(failure)))
            else:
                post(loop, lambda: settle(lambda: result.set_result(value)))

        if not self.submit(run):
            raise self._closed_error()
        return await result

    def wake(self) -> None:
        """Tells the thread that something it may wait for has happened."""
        self._bell.set()

    # Called in the thread.

    def empty(self) -> None:
        """Runs all commands; `wait` returns at once for whatever comes after."""
        self._bell.clear()
        while self._commands:
            self._commands.popleft()()

    def wait(self, timeout_s: float | None) -> None:
        """Until there is a command, somebody called `wake`, or the time is over."""
        if not self._commands:
            self._bell.wait(timeout_s)

    def seal(self) -> None:
        """Refuses further commands."""
        with self._gate:
            self._is_sealed = True
