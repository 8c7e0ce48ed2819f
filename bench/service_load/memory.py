"""What the service holds in memory for jobs that wait and for readers of their events."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

from orchestrator.bench.service_load.servers import Server, ttc, up

_MODEL = "scripted:arithmetic,token_s=1000"
"""The one job that runs never ends, so all others wait."""
_WAITING = re.compile(r'^ttc_queue_jobs\{state="queued"\} ([\d.e+]+)$', re.MULTILINE)
_SETTLE_S = 2.0
_AT_ONCE = 32
_STREAMS_AT_ONCE = 50
_JOB = json.dumps({"problem": "What is 3 + 4 * 2?", "policy": "self_consistency", "params": {"n": 8}}).encode()


def measured(folder: Path, *, store: str, num_jobs: int, num_streams: int) -> dict[str, Any]:
    """Memory of a server in which nothing moves: before, with so many waiting jobs, and with so many open streams."""
    server = ttc(
        folder,
        model=_MODEL,
        store=store,
        name="ttc-waiting",
        SERVICE__CONCURRENCY="1",
        SERVICE__MAX_WAITING=str(num_jobs + 1000),
    )
    with up(server):
        return asyncio.run(_measured(server, num_jobs=num_jobs, num_streams=num_streams))


async def _measured(server: Server, *, num_jobs: int, num_streams: int) -> dict[str, Any]:
    await _queued(server, 200)  # what the first requests bring in stays
    rss = [await _settled(server)]
    start, cpu = time.perf_counter(), server.cpu_s()
    ids = await _queued(server, num_jobs)
    seconds, cpu = time.perf_counter() - start, server.cpu_s() - cpu
    num_waiting = await _num_waiting(server)
    if num_waiting < num_jobs:
        raise RuntimeError(f"only {num_waiting} of {num_jobs} jobs wait")
    rss.append(await _settled(server))
    writers = await _streams(server, [ids[index % len(ids)] for index in range(num_streams)])
    rss.append(await _settled(server))
    for writer in writers:
        writer.close()
    return {
        "num_jobs": num_jobs,
        "num_streams": num_streams,
        "rss_mib": dict(zip(("before", "jobs", "streams"), rss, strict=True)),
        "kib_per_job": (rss[1] - rss[0]) * 1024 / num_jobs,
        "kib_per_stream": (rss[2] - rss[1]) * 1024 / num_streams,
        "jobs_taken_in_per_s": num_jobs / seconds,
        "cpu_ms_per_job_taken_in": 1e3 * cpu / num_jobs,
    }


async def _num_waiting(server: Server) -> int:
    """By the service's own metrics, which look at the queue once in a while."""
    await asyncio.sleep(_SETTLE_S)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(_head("GET", "/metrics", 0))
    found = _WAITING.search((await _body(reader)).decode())
    writer.close()
    return int(float(found[1])) if found is not None else 0


async def _settled(server: Server) -> float:
    await asyncio.sleep(_SETTLE_S)
    return server.rss_mib()


async def _queued(server: Server, count: int) -> list[str]:
    """Hands in so many jobs; their ids."""
    left = iter(range(count))
    ids: list[str] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in left:
            writer.write(_head("POST", "/v1/jobs", len(_JOB)) + _JOB)
            ids.append(json.loads(await _body(reader))["id"])
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(count, _AT_ONCE)):
            tasks.create_task(client())
    return ids


async def _streams(server: Server, job_ids: list[str]) -> list[asyncio.StreamWriter]:
    """Opens the events of each job, and waits until each has begun."""
    turns = asyncio.Semaphore(_STREAMS_AT_ONCE)

    async def stream(job_id: str) -> asyncio.StreamWriter:
        async with turns:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(_head("GET", f"/v1/jobs/{job_id}/events", 0))
            await _status(reader)
            return writer

    async with asyncio.TaskGroup() as tasks:
        opened = [tasks.create_task(stream(job_id)) for job_id in job_ids]
    return [task.result() for task in opened]


def _head(method: str, path: str, length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def _status(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    if not head.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"the service said {head[:200]!r}")
    return head


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = await _status(reader)
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await asyncio.wait_for(reader.readexactly(int(length.partition(b":")[2])), 60)
