"""A real redis-server on a free port, which can be stopped, killed and started again with its data."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest


class RedisServer:
    """One server process; a context manager.

    Args:
        folder: Where it keeps its append-only file and its log.
        appendfsync: ``always``, ``everysec``, or None for no append-only file.
        options: Further words of its command line.
    """

    def __init__(self, folder: Path, *options: str, appendfsync: str | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = folder / "redis.log"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self._command += ["--loglevel", "warning", "--appendonly", "no" if appendfsync is None else "yes"]
        if appendfsync is not None:
            self._command += ["--appendfsync", appendfsync]
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
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(command.encode() + b"\r\n")
                return connection.recv(1 << 16).partition(b"\r\n")[0]
        except OSError:
            return b""
