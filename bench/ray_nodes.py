"""A Ray cluster of several nodes on this machine, for measurements and tests: each node has processes of its own, and
can be killed as a machine dies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.local_cluster import LocalCluster, write_local

_HOST = "127.0.0.1"
_STATE_HOME = "XDG_STATE_HOME"
_START_S = 300.0
_STOP_S = 20.0
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "250"}


class Nodes:
    """A cluster, from entering the context to leaving it.

    Args:
        cpus: Cores that each node says it has, the head first; they are counted, not reserved.
        port: Of its control store; any free one by default.
        namespace: Of the fleet that finds it as its local Ray, as long as the context lasts.
        variables: More of the environment that the nodes' processes inherit.
        state: Folder where it is noted; one of its own by default.

    Attributes:
        address: ``HOST:PORT`` of its control store.
    """

    def __init__(
        self,
        *cpus: int,
        port: int | None = None,
        namespace: str = "ttc",
        variables: dict[str, str] | None = None,
        state: Path | None = None,
    ) -> None:
        self._cpus = cpus
        self._port = port
        self._state = state
        self._namespace = namespace
        self._variables = dict(variables or {})
        self._processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="ttc-ray-"))
        port = self._port or _free_port()
        self.address = f"{_HOST}:{port}"
        token = self._folder / "token"
        token.write_text(secrets.token_hex(32), encoding="ascii")
        token.chmod(0o600)
        self._variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._state_home = os.environ.get(_STATE_HOME)
        os.environ[_STATE_HOME] = str(self._state or self._folder)
        try:
            self._start("--head", f"--port={port}", "--include-dashboard=false", cpus=self._cpus[0])
            for cpus in self._cpus[1:]:
                self.add(cpus)
            write_local(self._namespace, LocalCluster(self.address, self._processes[0].pid, str(token)))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            _end(process)
        if self._state_home is None:
            os.environ.pop(_STATE_HOME, None)
        else:
            os.environ[_STATE_HOME] = self._state_home
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def num_nodes(self) -> int:
        """Nodes that run, the head among them."""
        return sum(process.poll() is None for process in self._processes)

    def add(self, cpus: int) -> int:
        """Starts another node; returns its number."""
        return self._start(f"--address={self.address}", cpus=cpus)

    def kill(self, number: int) -> None:
        """Kills a node with all that runs on it, at once; 0 is the head."""
        _kill(self._processes[number])

    def _start(self, *options: str, cpus: int) -> int:
        number = len(self._processes)
        log = self._folder / f"node-{number}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={100 << 20}", f"--node-ip-address={_HOST}"]
        if number == 0:
            command += [f"--temp-dir={self._folder}"]
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(  # noqa: S603  # our own interpreter, Ray's module
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **_ALWAYS, **self._variables},
            )
        self._processes.append(process)
        deadline = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text(encoding="utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a node did not start: {log.read_text(encoding='utf-8', errors='replace')[-500:]}")
            time.sleep(0.1)
        return number


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
