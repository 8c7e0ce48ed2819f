"""The service under clients that leave and processes that die, with small counts; `make soak` runs the long ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.bench.service_soak import JOBS_LEFT, JOBS_REDIS, JOBS_SQLITE, SEED, crashed
from orchestrator.bench.soaking.leaving import leave

pytestmark = [
    pytest.mark.server,
    pytest.mark.crash,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
LONG = (pytest.mark.soak, pytest.mark.timeout(7200))
SHORT = pytest.mark.timeout(150)


@pytest.mark.parametrize("num_jobs", [pytest.param(30, marks=SHORT), pytest.param(JOBS_LEFT, marks=LONG)])
async def test_clients_that_leave_end_the_spending_and_counts_agree_with_the_upstreams_log(
    num_jobs: int, tmp_path: Path
) -> None:
    found = await leave(num_jobs, seed=SEED, folder=tmp_path, num_clients=8, say=print)
    assert found["problems"] == []
    assert found["num_left"] >= num_jobs / 3
    assert found["num_calls_cut"] > 0
    assert found["account_tokens"] == found["output_tokens"]


@pytest.mark.parametrize(
    ("store", "num_jobs"),
    [
        pytest.param("redis", 25, marks=SHORT),
        pytest.param("redis", JOBS_REDIS, marks=LONG),
        pytest.param("sqlite", JOBS_SQLITE, marks=LONG),
    ],
)
async def test_processes_that_die_lose_no_job_pay_nothing_twice_and_keep_streams_whole(
    store: str, num_jobs: int, tmp_path: Path
) -> None:
    found = await crashed(num_jobs, seed=SEED, folder=tmp_path, uses_redis=store == "redis")
    assert found["problems"] == []
    assert found["num_succeeded"] == num_jobs
    assert found["num_harms"] > 0
