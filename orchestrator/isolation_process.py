"""One worker process of `orchestrator.isolation` and its pipes, as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

from orchestrator.errors import RunFailure
from orchestrator.isolation_child import HEADER_BYTES

_CHILD = Path(__file__).with_name("isolation_child.py")
_READ_BYTES = 1 << 20


class WorkerDied(RunFailure):
    """The worker process ended during the call.

    Attributes:
        exit_code: Its exit status; negative for the number of the signal that killed it, None if unknown.
    """

    code = "worker_died"

    def __init__(self, *, function: str, exit_code: int | None) -> None:
        super().__init__(
            f"the process that ran {function} died (exit code {exit_code})", function=function, exit_code=exit_code
        )
        self.exit_code = exit_code


class WorkerProcess:
    """One child process and its pipes; nothing in it belongs to an event loop between two exchanges."""

    def __init__(self) -> None:
        child_life, self._life = os.pipe()  # the kernel kills the child's group when our end closes
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and file
                [sys.executable, "-P", str(_CHILD), str(child_life)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(child_life,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._life)
            raise
        finally:
            os.close(child_life)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to_child, self._from_child = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to_child, False)
        os.set_blocking(self._from_child, False)
        self._finalizer = weakref.finalize(self, _kill_and_wait, self._process, self._life)

    def is_alive(self) -> bool:
        """Whether the process has not ended yet; reaps it once it has."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kills the whole process group; returns before it is gone."""
        _kill(self._process)

    def exchange_blocking(self, request: bytes, function: str, *, timeout_s: float) -> tuple[object, ...]:
        """Like `exchange`, without an event loop.

        Raises:
            WorkerDied: The child closed its end.
            TimeoutError: It took longer.
        """
        exchange = _Exchange(request, self._to_child, self._from_child)
        deadline = time.monotonic() + timeout_s
        while exchange.reply is None:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            waiting = select.poll()  # select.select knows no descriptors above 1023
            waiting.register(self._from_child, select.POLLIN)
            if exchange.is_sending:
                waiting.register(self._to_child, select.POLLOUT)
            for descriptor, _ in waiting.poll(1000 * remaining_s):
                (exchange.receive if descriptor == self._from_child else exchange.send)()
        if not exchange.reply:
            raise WorkerDied(function=function, exit_code=self._process.poll())
        message: tuple[object, ...] = pickle.loads(exchange.reply)  # noqa: S301  # from our own child
        return message

    async def exchange(self, request: bytes, function: str) -> tuple[object, ...]:
        """Sends one frame and waits for one.

        Raises:
            WorkerDied: The child closed its end.
        """
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[bytes] = loop.create_future()
        exchange = _Exchange(request, self._to_child, self._from_child)

        def send() -> None:
            exchange.send()
            if not exchange.is_sending:
                loop.remove_writer(self._to_child)

        def receive() -> None:
            exchange.receive()
            if exchange.reply is not None and not finished.done():
                finished.set_result(exchange.reply)

        loop.add_reader(self._from_child, receive)
        loop.add_writer(self._to_child, send)
        try:
            reply = await finished
        finally:
            loop.remove_reader(self._from_child)
            loop.remove_writer(self._to_child)
        if not reply:
            raise WorkerDied(function=function, exit_code=await self._exit_code())
        message: tuple[object, ...] = pickle.loads(reply)  # noqa: S301  # from our own child
        return message

    async def _exit_code(self) -> int | None:
        for _ in range(50):  # the pipe closes a moment before the process can be reaped
            if (code := self._process.poll()) is not None:
                return code
            await asyncio.sleep(0.002)
        return None


class _Exchange:
    """One frame on its way to a child and one on its way back, over pipes that do not block."""

    def __init__(self, request: bytes, to_child: int, from_child: int) -> None:
        self._outgoing = memoryview(len(request).to_bytes(HEADER_BYTES) + request)
        self._incoming = bytearray()
        self._to_child, self._from_child = to_child, from_child
        self.reply: bytes | None = None  # empty once the child has closed its end

    @property
    def is_sending(self) -> bool:
        """Whether some of the request has not been written yet."""
        return len(self._outgoing) > 0

    def send(self) -> None:
        """Writes as much as the pipe takes."""
        try:
            self._outgoing = self._outgoing[os.write(self._to_child, self._outgoing) :]
        except BlockingIOError:
            pass
        except OSError:  # the child is gone; its end of the other pipe says so too
            self._outgoing = self._outgoing[:0]

    def receive(self) -> None:
        """Reads what the pipe holds."""
        try:
            chunk = os.read(self._from_child, _READ_BYTES)
        except BlockingIOError:
            return
        self._incoming += chunk
        size = int.from_bytes(self._incoming[:HEADER_BYTES])
        if HEADER_BYTES + size <= len(self._incoming) > HEADER_BYTES:
            self.reply = bytes(self._incoming[HEADER_BYTES:])
        elif not chunk:
            self.reply = b""


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone; macOS denies killing a zombie
            os.killpg(process.pid, signal.SIGKILL)


def _kill_and_wait(process: subprocess.Popen[bytes], life_fd: int) -> None:
    """When the worker is dropped or the interpreter ends."""
    os.close(life_fd)
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
