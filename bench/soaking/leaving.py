"""Clients that leave at random moments, and what the model server behind the service saw of it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from orchestrator.bench.soaking.leaving_rules import Seen, findings
from orchestrator.bench.soaking.processes import (
    TTC,
    Program,
    environment,
    free_port,
    made_key,
    redis_server,
    running,
)
from orchestrator.bench.soaking.streams import FAILURES
from orchestrator.bench.soaking.upstream import MODEL, CallLog
from orchestrator.stores import open_store

Json = dict[str, Any]  # Any: JSON values
Kind = Literal["chat", "plain chat", "job", "job with a reader"]

_KINDS: tuple[Kind, ...] = ("chat", "plain chat", "job", "job with a reader")
_POLICIES: tuple[tuple[str, Json], ...] = (
    ("single", {}),
    ("self_consistency", {"n": 4}),
    ("adaptive_consistency", {"max_samples": 6, "confidence": 0.99, "parallel": 2}),
)
_STAYS = 0.1
"""Share of the clients who wait for the end."""
_LONGEST_S = 2.0
"""They leave at the latest so long after they have asked."""
_END_S = 60.0
"""Whatever is left by everybody, and what is not, has ended after so long."""
_TAG = re.compile(r"\[job (\d+)\]")


@dataclass(slots=True)
class Visit:
    """One client.

    Attributes:
        number: Of its job.
        kind: What it asks for and how it leaves.
        left_at: When it had closed its connection, or the answer to its DELETE was there; None if it stayed.
        failure: A response that should not have been.
    """

    number: int
    kind: Kind
    left_at: float | None = None
    failure: str = ""


class Visitors:
    """All clients, a few at a time.

    Args:
        session: With the key.
        address: Of the service.
        seed: Of what they ask and when they leave.
        num_clients: At once.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, *, seed: int, num_clients: int) -> None:
        self._session = session
        self._address = address
        self._seed = seed
        self._turns = asyncio.Semaphore(num_clients)

    async def visit(self, number: int) -> Visit:
        """Asks, and leaves or not."""
        rng = random.Random(f"{self._seed} {number}")
        visit = Visit(number, rng.choice(_KINDS))
        policy, params = rng.choice(_POLICIES)
        text = f"[job {number}] What is it?"
        leave_s = None if rng.random() < _STAYS else rng.uniform(0, _LONGEST_S)
        async with self._turns:
            if visit.kind in {"chat", "plain chat"}:
                body: Json = {"model": f"ttc/{policy}", "messages": [{"role": "user", "content": text}]}
                body |= {"ttc": {"params": params}, "seed": number, "stream": visit.kind == "chat"}
                await self._chat(visit, body, leave_s)
            else:
                body = {"problem": text, "policy": policy, "params": params, "seed": number}
                await self._job(visit, body, leave_s, rng)
        return visit

    async def _chat(self, visit: Visit, body: Json, leave_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(leave_s):
                async with self._session.post(f"{self._address}/v1/chat/completions", json=body) as response:
                    try:
                        text = await response.text()
                    except asyncio.CancelledError:
                        response.close()
                        raise
                if response.status != 200 or '"error"' in text:
                    visit.failure = f"{response.status}: {text[:500]}"
                return
        visit.left_at = time.time()

    async def _job(self, visit: Visit, body: Json, leave_s: float | None, rng: random.Random) -> None:
        async with self._session.post(f"{self._address}/v1/jobs", json=body) as response:
            if response.status != 202:
                visit.failure = f"{response.status}: {(await response.text())[:500]}"
                return
            url = f"{self._address}/v1/jobs/{(await response.json())['id']}"
        if visit.kind == "job with a reader":
            await self._read(f"{url}/events", rng.uniform(0, _LONGEST_S))
            if leave_s is not None and rng.random() < 0.5:
                leave_s = None  # the reader has gone; the job has not been told to end, and goes on
        if leave_s is None:
            return
        await asyncio.sleep(leave_s)
        async with self._session.delete(url) as response:
            if response.status != 200:
                visit.failure = f"{response.status}: {(await response.text())[:500]}"
        visit.left_at = time.time()

    async def _read(self, url: str, leave_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(leave_s), self._session.get(url) as response:
                try:
                    async for _ in response.content.iter_any():
                        pass
                finally:
                    response.close()


async def leave(num_jobs: int, *, seed: int, folder: Path, num_clients: int = 12, say: Callable[[str], None]) -> Json:
    """Runs it; the figures.

    One process serves and runs jobs, a controller runs jobs of the same Redis store, and both ask the model server.
    """
    redis, store = redis_server(folder)
    model_port, port = free_port(), free_port()
    address, model_address = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{model_port}"
    env = environment(folder, OPENAI__OPTIONS=json.dumps({"fan_out": "requests"}))
    common = ["--model", f"openai:{MODEL}@{model_address}/v1", "--store", store, "--concurrency", "4"]
    programs = [
        redis,
        Program(
            "upstream",
            [sys.executable, "-m", "orchestrator.bench.soaking.upstream", str(model_port)],
            folder=folder,
            env=env,
            ready="listening",
        ),
        Program("serve", [*TTC, "serve", "--port", str(port), *common], folder=folder, env=env, ready="jobs in"),
        Program("controller", [*TTC, "controller", *common], folder=folder, env=env, ready="running jobs of"),
    ]
    with running(redis):
        key, key_id = await asyncio.to_thread(made_key, store, folder=folder, env=env)
        with running(*programs[1:]):
            say(f"{num_jobs} jobs")
            started_at = time.monotonic()
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=_TIMES) as session:
                visitors = Visitors(session, address, seed=seed, num_clients=num_clients)
                async with asyncio.TaskGroup() as tasks:
                    visiting = [tasks.create_task(visitors.visit(number)) for number in range(num_jobs)]
                visits = [task.result() for task in visiting]
                say(f"all have left after {time.monotonic() - started_at:.0f} s")
                jobs = await _ended_jobs(session, address)
                calls = await _ended_calls(session, model_address)
            opened = await open_store(store)
            try:
                opened.check_integrity()
                spent, set_aside = await opened.spent(key_id, "total")
            finally:
                await opened.aclose()
    return findings(
        [
            Seen(
                number=visit.number,
                left_at=visit.left_at,
                failure=visit.failure,
                is_chat="chat" in visit.kind,
                job=jobs.get(visit.number),
                calls=[call for call in calls if call.job == visit.number],
            )
            for visit in visits
        ],
        spent=spent,
        set_aside=set_aside,
    ) | {"seed": seed, "num_clients": num_clients, "seconds": round(time.monotonic() - started_at, 1)}


async def _ended_jobs(session: aiohttp.ClientSession, address: str) -> dict[int, Json]:
    """All jobs by number, once all have ended.

    Raises:
        RuntimeError: Some do not.
    """
    deadline = time.monotonic() + _END_S
    while True:
        found: dict[int, Json] = {}
        cursor: str | None = ""
        while cursor is not None:
            query = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
            async with session.get(f"{address}/v1/jobs", params=query) as response:
                page = await response.json()
            for job in page["data"]:
                tag = _TAG.search(job["problem"])
                assert tag is not None, "nobody else asks"
                found[int(tag[1])] = job
            cursor = page["next_cursor"]
        left = [job["id"] for job in found.values() if job["state"] not in {"succeeded", "failed", "cancelled"}]
        if not left:
            return found
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(left)} jobs do not end: {left[:10]}")
        await asyncio.sleep(0.5)


async def _ended_calls(session: aiohttp.ClientSession, model_address: str) -> list[CallLog]:
    """All calls, once all have ended.

    Raises:
        RuntimeError: Some do not.
    """
    deadline = time.monotonic() + _END_S
    while True:
        with suppress(*FAILURES):
            async with session.get(f"{model_address}/log", headers={"Authorization": ""}) as response:
                calls = [CallLog(**call) for call in await response.json(content_type=None)]
            if all(call.ended_at is not None for call in calls):
                return calls
        if time.monotonic() > deadline:
            raise RuntimeError("calls of the model server do not end")
        await asyncio.sleep(0.2)


_TIMES = aiohttp.ClientTimeout(total=None, connect=30, sock_read=120)
