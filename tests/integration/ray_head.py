"""A Ray cluster of a test's own, with a dashboard, made of the processes that ``ray start`` starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 90.0


def free_ports(number: int) -> list[int]:
    """Ports that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Head:
    """A cluster.

    Attributes:
        address: Of its dashboard.
        port: Of its control store.
        agent_port: Of the agent on its node, which is no job server.
        pid: Of the process that all others are below.
        folder: Everything that Ray writes.
        env: Of its processes.
    """

    address: str
    port: int
    agent_port: int
    pid: int
    folder: Path
    env: dict[str, str]

    @contextmanager
    def node(self, *, num_cpus: int) -> Iterator[subprocess.Popen[bytes]]:
        """Another node, for as long as the context is open."""
        agent, agent_grpc, metrics = free_ports(3)
        command = [*ray_start(self.env), "--address", f"127.0.0.1:{self.port}", "--num-cpus", str(num_cpus)]
        command += ["--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)]
        command += ["--metrics-export-port", str(metrics)]
        with _process(command, self.env, self.folder / "node.txt") as process:
            yield process

    def log(self) -> str:
        """What was said when it was started."""
        return (self.folder / "start.txt").read_text(errors="replace")[-2000:]


def ray_start(env: dict[str, str]) -> list[str]:
    ray = shutil.which("ray", path=env["PATH"])
    assert ray is not None, "there is no command ray"
    return [ray, "start", "--block", "--object-store-memory", str(100 << 20), "--disable-usage-stats"]


@contextmanager
def running_head(*, num_cpus: int = 0) -> Iterator[Head]:
    """A head, for as long as the context is open; jobs find the ``ttc`` of this environment."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets need a short path
    port, dashboard, agent, agent_grpc, metrics, client = free_ports(6)
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    env = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TTC_OFFLINE": "1",
    }
    ports = {
        "--port": port,
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": agent,
        "--dashboard-agent-grpc-port": agent_grpc,
        "--metrics-export-port": metrics,
        "--ray-client-server-port": client,
        "--num-cpus": num_cpus,
    }
    command = [*ray_start(env), "--head", "--node-ip-address", "127.0.0.1", "--temp-dir", str(folder / "r")]
    command += [str(word) for option in ports.items() for word in option]
    try:
        with _process(command, env, folder / "start.txt") as process:
            head = Head(f"http://127.0.0.1:{dashboard}", port, agent, process.pid, folder, env)
            _wait_for(f"{head.address}/api/version", process, head)
            yield head
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(address: str, process: subprocess.Popen[bytes], head: Head) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, head.log()
            assert time.monotonic() < deadline, head.log()
            time.sleep(0.2)


@contextmanager
def _process(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Processes that end with the first of them: Ray's are in sessions of their own, and are its children."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=env) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a node with all that it runs, at once."""
    if process.poll() is not None:
        return
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(30)


def descendants(pid: int) -> list[int]:
    """Processes below one, by id."""
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(child) for child in task.read_text().split()]
                found += children
                parents += children
    return found
