"""Servers that are measured, in processes of their own, and what the kernel says of their CPU time and memory."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.bench.service_load.upstream import MODEL
from orchestrator.bench.soaking.processes import TTC, Program, environment, free_port, running

SCRIPTED = {"arithmetic": "scripted:arithmetic", "say": "scripted:say=The answer is \\boxed{11}"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Server(Program):
    """A program that listens on ``port``; its processes are those of its group."""

    def __init__(self, name: str, command: Sequence[str], *, port: int, folder: Path, **settings: str) -> None:
        super().__init__(
            name, command, folder=folder, env=environment(folder, **settings), ready=lambda: _answers(self.url)
        )
        self.port = port

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def chats(self) -> str:
        """Where chats are sent."""
        return f"{self.url}/v1/chat/completions"

    def cpu_s(self) -> float:
        """CPU time of its processes so far."""
        return sum(int(stat[11]) + int(stat[12]) for stat in self._stats()) / _TICKS_PER_S

    def rss_mib(self) -> float:
        """Memory of its processes that is in RAM."""
        return sum(int(stat[21]) for stat in self._stats()) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _stats(self) -> Iterator[list[str]]:
        """Of each process, what follows its name in /proc/PID/stat."""
        assert self._process is not None, f"{self.name} does not run"
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self._process.pid:
                yield fields


def ttc(folder: Path, *, model: str, store: str, workers: int = 1, name: str = "ttc", **settings: str) -> Server:
    """The service."""
    port = free_port()
    words = ["serve", "--port", str(port), "--model", model, "--store", store, "--workers", str(workers)]
    return Server(name, [*TTC, *words], port=port, folder=folder, **settings)


def upstream(folder: Path) -> Server:
    """The model server."""
    port = free_port()
    module = "orchestrator.bench.service_load.upstream"
    return Server("upstream", [sys.executable, "-P", "-m", module, str(port)], port=port, folder=folder)


def ttc_over(model_server: Server, folder: Path, *, store: str) -> Server:
    """The service over a model server whose kind is known, so that nothing has to be found out first."""
    options = json.dumps({"dialect": "openai", "continue_mode": "off", "context_length": 100_000})
    model = f"openai:{MODEL}@{model_server.url}/v1"
    return ttc(folder, model=model, store=store, name="ttc-over-http", OPENAI__OPTIONS=options)


def its(command: str, folder: Path) -> Server:
    """its-iaas; `configure_its` tells it what to do."""
    port = free_port()
    words = [command, "--port", str(port), "--log-level", "WARNING"]
    return Server("its-iaas", words, port=port, folder=folder)


def configure_its(server: Server, model_server: Server, *, budget: int) -> None:
    """Self-consistency over the number in the box, with so many samples."""
    body = {
        "endpoint": f"{model_server.url}/v1",
        "api_key": "none",
        "model": MODEL,
        "alg": "self-consistency",
        "regex_patterns": [r"\\boxed\{(\d+)\}"],
        "budget": budget,
    }
    request = urllib.request.Request(  # noqa: S310  # our own address
        f"{server.url}/configure", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310  # our own address
        assert reply.status == 200, reply.read()


def samples_of(model_server: Server) -> int:
    """How many samples it was asked for so far."""
    with urllib.request.urlopen(f"{model_server.url}/samples", timeout=30) as reply:  # noqa: S310  # our own address
        return int(reply.read())


@contextmanager
def up(*servers: Server) -> Iterator[None]:
    """Starts them in order; ends them in the end."""
    with running(*servers):
        yield


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as reply:  # noqa: S310  # our own address
            return bool(reply.status == 200)
    except OSError:
        return False
