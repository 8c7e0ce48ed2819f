"""Real models and real servers for the integration tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.errors import ModelUnavailable
from orchestrator.workers.catalogue import Catalogue

from .shell import Shell


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The smallest model of the catalogue, pulled if the cache lacks it."""
    try:
        return Catalogue.from_environment().pull("smollm2-135m")
    except ModelUnavailable as error:
        pytest.skip(str(error))


class RunningServer(NamedTuple):
    """A server process: its base address, and the file it logs to."""

    base_url: str
    log: Path


@pytest.fixture(scope="session")
def llama_cpp_server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`llama_cpp.server` with the smallest model and a context of 512 tokens."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("starlette_context", reason="llama_cpp.server needs its extra: llama-cpp-python[server]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(smollm2_path), "--model_alias", "smollm2"]
    command += ["--n_ctx", "512", "--n_threads", "1", "--host", "127.0.0.1", "--port", str(port)]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    log = tmp_path_factory.mktemp("llama_cpp_server") / "log.txt"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=unbuffered) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield RunningServer(f"http://127.0.0.1:{port}/v1", log)
        finally:
            process.kill()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.2)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A user's shell in an empty folder."""
    return Shell(tmp_path)
