"""Processes that are started, killed, stopped and started again: those of the service, and redis-server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

START_S = 90.0
TTC = (sys.executable, "-c", "import sys; from orchestrator.api.cli import main; sys.exit(main())")


class Program:
    """A command line that can be started again and again; the process is the leader of a group of its own.

    Args:
        name: For the log, which goes to ``FOLDER/NAME.log``.
        command: Its words.
        folder: Working folder.
        env: All of its variables.
        ready: A pattern in its log that says it is up, or a function that does; it is told the log since the start.

    Attributes:
        num_starts: How often it was started.
        is_frozen: Whether it was stopped by `freeze`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        ready: str | Callable[[], bool],
    ) -> None:
        self.name = name
        self.num_starts = 0
        self.is_frozen = False
        self._command = list(command)
        self._folder = folder
        self._env = dict(env)
        self._ready = ready
        self._log = folder / f"{name}.log"
        self._start_of_log = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has printed, in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Starts it; `wait_until_up` says when it is there."""
        assert self._process is None, f"{self.name} runs"
        self._start_of_log = self._log.stat().st_size if self._log.exists() else 0
        self.num_starts += 1
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  # our own words
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def is_up(self) -> bool:
        """Whether it has come up since it was started.

        Raises:
            RuntimeError: It has ended.
        """
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended: {self.log[-2000:]}")
        if callable(self._ready):
            return self._ready()
        with self._log.open("rb") as log:
            log.seek(self._start_of_log)
            return re.search(self._ready, log.read().decode(errors="replace")) is not None

    def wait_until_up(self) -> None:
        """Returns when it is up."""
        deadline = time.monotonic() + START_S
        while not self.is_up():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not come up: {self.log[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Ends it, and what it has started, as ``kill -9`` does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self.is_frozen = False

    def freeze(self) -> None:
        """Stops it where it is (SIGSTOP)."""
        assert self._process is not None, f"{self.name} does not run"
        os.killpg(self._process.pid, signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """Lets it go on (SIGCONT)."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGCONT)
        self.is_frozen = False


@contextmanager
def running(*programs: Program) -> Iterator[None]:
    """Starts them one after another, each when the one before is up; kills them in the end."""
    try:
        for program in programs:
            program.start()
            program.wait_until_up()
        yield
    finally:
        for program in reversed(programs):
            program.kill()


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Variables of a process whose home is ``folder``; ``settings`` are written as after ``TTC_``."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TTC_OFFLINE": "1",
        **{f"TTC_{name}": value for name, value in settings.items()},
    }


def redis_server(folder: Path) -> tuple[Program, str]:
    """A redis-server that loses nothing it has acknowledged, and its address."""
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"]
    server = Program("redis", command, folder=folder, env=environment(folder), ready=lambda: _answers(port))
    return server, f"redis://127.0.0.1:{port}/0"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def made_key(store: str, *, folder: Path, env: Mapping[str, str]) -> tuple[str, str]:
    """A new API key of a store, and its id."""
    command = [*TTC, "keys", "create", "--tenant", "soak", "--store", store, "--json"]
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, timeout=START_S)  # noqa: S603
    made = json.loads(done.stdout)
    return made["key"], made["id"]
