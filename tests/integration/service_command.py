"""`ttc serve` and `ttc controller` in processes of their own, and what clients of them need."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from .shell import Shell

START_S = 40.0


@dataclass
class Command:
    """A command that goes on until it is told to stop.

    Attributes:
        process: The process.
        lines: What it has printed, with errors.
    """

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Gathers what is printed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def wait_for_line(self, pattern: str) -> str:
        """The first group of the pattern, once a line has it."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in self.lines:
                if (found := re.search(pattern, line)) is not None:
                    return found.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no line with {pattern!r}: {self.lines} (exit code {self.process.poll()})")

    def stop(self, number: int = signal.SIGTERM, *, within_s: float = 15.0) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(within_s)

    def kill(self) -> None:
        """Ends it without a chance to say anything."""
        self.stop(signal.SIGKILL)


@contextmanager
def command(shell: Shell, *args: str) -> Iterator[Command]:
    """The command, until the context ends."""
    process = subprocess.Popen(
        shell.command(*args),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **shell.options({}),
    )
    running = Command(process)
    reading = threading.Thread(target=running.read, daemon=True)
    reading.start()
    try:
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reading.join(5)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def serving(shell: Shell, *args: str, port: int = 0) -> Iterator[tuple[Command, httpx.Client]]:
    """`ttc serve` with a client of it, once it answers."""
    with command(shell, "serve", "--port", str(port), *args) as running:
        address = running.wait_for_line(r"serving on (http://\S+)")
        with httpx.Client(base_url=address, timeout=20) as client:
            until(lambda: is_up(client))
            yield running, client


def is_up(client: httpx.Client) -> bool:
    """Whether the service would serve a request."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def until(is_so: Callable[[], object], *, within_s: float = START_S) -> None:
    """Returns when something is so."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.02)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Stream:
    """A job's events as a client sees them that connects again whenever the connection breaks."""

    address: str
    job_id: str
    rows: list[tuple[int, str, Any]] = field(default_factory=list)
    num_connections: int = 0

    def follow(self) -> None:
        """Reads until the job's end."""
        deadline = time.monotonic() + 60
        while not self.rows or self.rows[-1][1] != "final":
            assert time.monotonic() < deadline, "the stream does not end"
            try:
                self._read()
            except httpx.TransportError:
                time.sleep(0.1)

    def _read(self) -> None:
        headers = {"Last-Event-ID": str(self.rows[-1][0])} if self.rows else {}
        path = f"{self.address}/v1/jobs/{self.job_id}/events"
        with httpx.stream("GET", path, headers=headers, timeout=10) as response:
            if response.status_code != 200:
                time.sleep(0.1)
                return
            self.num_connections += 1
            block: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    block[name] = value
                    continue
                if "id" in block:
                    self.rows.append((int(block["id"]), block["event"], json.loads(block["data"])))
                block = {}
