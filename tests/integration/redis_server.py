"""A real redis-server on a free port, which can be stopped, killed and started again with its data."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest


class RedisServer:
    """One server process; a context manager.

    Args:
        folder: Where it keeps its append-only file and its log.
        appendfsync: ``always``, ``everysec``, or None for no append-only file.
        options: Further words of its command line.

    Attributes:
        bus_port: A second free port, for the bus of a cluster or for TLS.
    """

    def __init__(self, folder: Path, *options: str, appendfsync: str | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        with socket.socket() as probe, socket.socket() as other:
            for each in (probe, other):
                each.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
            self.bus_port: int = other.getsockname()[1]
        self.log = folder / "redis.log"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self._command += ["--loglevel", "warning", "--appendonly", "no" if appendfsync is None else "yes"]
        if appendfsync is not None:
            self._command += ["--appendfsync", appendfsync]
        if "--cluster-enabled" in options:
            self._command += ["--cluster-port", str(self.bus_port)]
        self._command += options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, with the data that it had, and waits until it answers."""
        assert self._process is None
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        deadline = time.monotonic() + 20
        while self.ask("PING") != b"+PONG":
            assert self._process.poll() is None, self.log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")[-2000:]
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it at once, as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def ask(self, command: str) -> bytes:
        """The first line of what it answers; nothing if it is not there."""
        try:
            return self.answer(command).encode().partition(b"\r\n")[0]
        except OSError:
            return b""

    def answer(self, command: str) -> str:
        """All it answers, as Redis writes it.

        Raises:
            OSError: It is not there.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\nQUIT\r\n")
            text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode(errors="replace")
        return text.removesuffix("+OK\r\n")


async def eventually(is_so: Callable[[], bool], *, within_s: float = 20) -> None:
    """Returns when something outside has come true."""
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110  # nobody here can set an event
            await asyncio.sleep(0.02)
