from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from orchestrator.api.service.errors import install_error_handlers
from orchestrator.api.service.observing import Observing, shared_between_processes
from orchestrator.api.service.observing.metrics import DIRECTORY_VARIABLE
from orchestrator.config import ServiceSettings
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.store import JobRecord, JobState
from orchestrator.stores.memory import MemoryStore


class BrokenStore(MemoryStore):
    async def count_jobs(self, *, tenant: str | None = None) -> dict[JobState, int]:
        raise StoreFailed("gone")


def application(settings: ServiceSettings, store: MemoryStore | None = None) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)
    Observing().install(app, store or MemoryStore(), settings)
    return app


async def read(app: FastAPI, *, peer: str = "127.0.0.1", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=(peer, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return await http.get("/metrics", headers=headers)


async def test_the_text_can_be_parsed_and_holds_the_queue_as_it_is() -> None:
    store = MemoryStore()
    await store.create(JobRecord(id="a"))
    await store.create(JobRecord(id="b"))
    response = await read(application(ServiceSettings(), store))
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    queue = {sample.labels["state"]: sample.value for sample in families["ttc_queue_jobs"].samples}
    assert queue == {"queued": 2, "running": 0, "waiting": 0}


async def test_a_store_that_fails_takes_only_the_queue_away() -> None:
    response = await read(application(ServiceSettings(), BrokenStore()))
    assert response.status_code == 200
    assert "ttc_jobs_total" in response.text
    assert "ttc_queue_jobs" not in response.text


async def test_by_default_only_this_machine_reads_them() -> None:
    app = application(ServiceSettings())
    assert (await read(app, peer="10.0.0.7")).status_code == 403
    assert (await read(app, peer="::1")).status_code == 200


async def test_a_token_of_its_own_lets_others_read_them() -> None:
    settings = ServiceSettings(metrics_access="token", metrics_token=SecretStr("abc"))
    app = application(settings)
    assert (await read(app, peer="10.0.0.7")).status_code == 401
    assert (await read(app, peer="127.0.0.1", Authorization="Bearer abcd")).status_code == 401
    assert (await read(app, peer="10.0.0.7", Authorization="Bearer abc")).status_code == 200


def test_a_token_that_is_demanded_has_to_be_set() -> None:
    with pytest.raises(InvalidRequest) as caught:
        application(ServiceSettings(metrics_access="token"))
    assert caught.value.field == "service.metrics_token"


async def test_everybody_may_read_them_where_that_is_asked_for() -> None:
    assert (await read(application(ServiceSettings(metrics_access="open")), peer="10.0.0.7")).status_code == 200


_PROCESS = """
import sys
from orchestrator.api.service.observing import Metrics
metrics = Metrics()
metrics.jobs.labels("single", "succeeded").inc(int(sys.argv[1]))
metrics.running.inc(1)
print(metrics.exposition({}).decode())
"""


def test_processes_that_share_a_port_tell_the_counts_of_all(tmp_path: Path) -> None:
    environment = {**os.environ, DIRECTORY_VARIABLE: str(tmp_path)}
    told = ""
    for number in (1, 2, 4):
        done = subprocess.run(
            [sys.executable, "-c", _PROCESS, str(number)], env=environment, capture_output=True, text=True, check=True
        )
        told = done.stdout
    assert 'ttc_jobs_total{policy="single",state="succeeded"} 7.0' in told


def test_the_shared_folder_is_there_only_inside_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    with shared_between_processes():
        folder = Path(os.environ[DIRECTORY_VARIABLE])
        assert folder.is_dir()
    assert DIRECTORY_VARIABLE not in os.environ
    assert not folder.exists()
