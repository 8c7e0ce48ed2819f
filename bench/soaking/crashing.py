"""Processes that die at random while jobs run: which jobs there are, who hands them in and follows them, the harm."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.bench.soaking.processes import (
    TTC,
    Program,
    environment,
    free_port,
    made_key,
    redis_server,
    running,
)
from orchestrator.bench.soaking.streams import FAILURES, Follower

Json = dict[str, Any]  # Any: JSON values

MODEL = "scripted:arithmetic,token_s=0.01"
LEASE_S = 4.0
NUM_APIS, NUM_CONTROLLERS = 2, 3
_CONCURRENCY = 6
_FOLLOWED = 0.2
"""Share of the jobs whose events somebody reads from beginning to end."""
_BATCHED = 0.05
"""Share of the requests that hand in several jobs."""
_MAX_IN_BATCH = 8
_REPEATED = 0.1
"""Share of the requests that are sent again although they were answered."""
_NUM_SENDERS = 4
_MAX_AHEAD = 60
"""Jobs that wait or run; more are handed in when there are fewer."""
_QUIET_S = (1.0, 6.0)
"""Between two harms. (To start a process takes more than a second of a core, which jobs do not get.)"""
_PAUSE_S = 0.3
_END_S = 240.0
"""After the last job was handed in, all have ended so much later."""


def request_of(number: int, seed: int) -> Json:
    """What job ``number`` asks for; always the same."""
    rng = random.Random(f"{seed} {number}")
    terms = [str(rng.randint(2, 30)) for _ in range(rng.randint(3, 7))]
    problem = terms[0] + "".join(f" {rng.choice('+-*')} {term}" for term in terms[1:])
    policy, params = rng.choice(_POLICIES)
    return {
        "problem": f"What is {problem}?",
        "policy": policy,
        "params": params,
        "seed": rng.randrange(2**31),
        "labels": {"number": str(number)},
        "budget": {"max_output_tokens": 20_000},
    }


_POLICIES: tuple[tuple[str, Json], ...] = (
    ("adaptive_consistency", {"max_samples": 6, "confidence": 0.99, "parallel": 2}),
    ("adaptive_consistency", {"max_samples": 10, "confidence": 0.95, "parallel": 3}),
    ("self_consistency", {"n": 4}),
    ("single", {}),
)


@dataclass(slots=True)
class Told:
    """What clients were told.

    Attributes:
        ids: By number of the job: all ids that it was said to have.
        answers: By id: all that was told of its end (state and answer).
        followers: Those who read events.
        statuses: Of all responses to those who hand jobs in, and of failed connections (0).
    """

    ids: dict[int, set[str]] = field(default_factory=dict)
    answers: dict[str, set[tuple[str, str | None]]] = field(default_factory=dict)
    followers: list[Follower] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Clients:
    """Hand jobs in, alone and in batches, send again what was not answered, wait for their ends and follow some.

    Args:
        session: With the key.
        addresses: Of all API processes.
        seed: Of all choices.
    """

    def __init__(self, session: aiohttp.ClientSession, addresses: Sequence[str], *, seed: int) -> None:
        self.told = Told()
        self._session = session
        self._addresses = addresses
        self._seed = seed
        self._rng = random.Random(f"clients {seed}")
        self._room = asyncio.Semaphore(_MAX_AHEAD)
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, num_jobs: int) -> None:
        """All jobs, to their ends."""
        numbers = iter(self._portions(num_jobs))
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for _ in range(_NUM_SENDERS):
                tasks.create_task(self._send(numbers))

    def _portions(self, num_jobs: int) -> list[list[int]]:
        left, portions = list(range(num_jobs)), list[list[int]]()
        while left:
            size = self._rng.randint(2, _MAX_IN_BATCH) if self._rng.random() < _BATCHED else 1
            portions.append(left[:size])
            left = left[size:]
        return portions

    async def _send(self, portions: Iterator[list[int]]) -> None:
        for numbers in portions:
            for _ in numbers:
                await self._room.acquire()
            ids = await self._handed_in(numbers)
            if self._rng.random() < _REPEATED:
                for number, job_id in zip(numbers, await self._handed_in(numbers), strict=True):
                    self.told.ids.setdefault(number, set()).add(job_id)
            assert self._tasks is not None, "it runs"
            for number, job_id in zip(numbers, ids, strict=True):
                self.told.ids.setdefault(number, set()).add(job_id)
                self._tasks.create_task(self._wait(job_id))
                if self._rng.random() < _FOLLOWED:
                    follower = Follower(job_id)
                    self.told.followers.append(follower)
                    rng = random.Random(f"{self._seed} {number}")
                    self._tasks.create_task(follower.follow(self._session, self._addresses, rng))

    async def _handed_in(self, numbers: Sequence[int]) -> list[str]:
        """The ids of the jobs, alone or as a batch."""
        requests = [request_of(number, self._seed) for number in numbers]
        if len(requests) == 1:
            return [(await self._posted("/v1/jobs", requests[0], f"job-{numbers[0]}"))["id"]]
        batch = await self._posted("/v1/batches", {"requests": requests}, f"batch-{numbers[0]}")
        return [job["id"] for job in batch["jobs"]]

    async def _posted(self, path: str, body: Json, key: str) -> Json:
        """The response to a request that is sent until there is one."""
        while True:
            url = f"{self._rng.choice(self._addresses)}{path}"
            status, found = 0, Json()
            with suppress(*FAILURES):
                async with self._session.post(url, json=body, headers={"Idempotency-Key": key}) as response:
                    status, found = response.status, await response.json()
            self.told.statuses[status] += 1
            if status in {200, 202}:
                return found
            if status not in {0, 429, 503}:
                raise RuntimeError(f"{path}: {status} {found}")
            await asyncio.sleep(_PAUSE_S)

    async def _wait(self, job_id: str) -> None:
        """Asks for the end until it is told, and then once more elsewhere."""
        num_told = 0
        while num_told < 2:
            url = f"{self._rng.choice(self._addresses)}/v1/jobs/{job_id}?wait=10"
            job: Json = {}
            with suppress(*FAILURES):
                async with self._session.get(url) as response:
                    job = await response.json() if response.status == 200 else {}
                    if response.status not in {200, 429, 503}:
                        raise RuntimeError(f"{url}: {response.status} {await response.text()}")
            if job.get("state") in {"succeeded", "failed", "cancelled"}:
                self.told.answers.setdefault(job_id, set()).add((job["state"], job["answer"]))
                num_told += 1
                if num_told == 1:
                    self._room.release()
            else:
                await asyncio.sleep(_PAUSE_S)


class Harm:
    """Kills, stops and starts processes at random until it is told to end; then all run again.

    Args:
        apis: Processes that serve; at least one of them is left alone at any time.
        controllers: Processes that run jobs.
        redis: The store's server, if it has one.
        seed: Of all choices.

    Attributes:
        counts: What was done, by name.
    """

    def __init__(
        self, apis: Sequence[Program], controllers: Sequence[Program], redis: Program | None, *, seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._apis, self._controllers, self._redis = list(apis), list(controllers), redis
        self._busy: set[str] = set()
        self._rng = random.Random(f"harm {seed}")
        self._end = asyncio.Event()

    def end(self) -> None:
        """No more of it."""
        self._end.set()

    async def run(self) -> None:
        """Goes on until `end`."""
        harms = [self._kill_api, self._kill_controller, self._stop_controller]
        harms += [self._kill_redis] if self._redis is not None else []
        async with asyncio.TaskGroup() as tasks:
            while not self._end.is_set():
                await self._rest(self._rng.uniform(*_QUIET_S))
                if not self._end.is_set():
                    tasks.create_task(self._rng.choice(harms)())

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end.wait()

    def _chosen(self, programs: Sequence[Program]) -> Program | None:
        """One that nothing is being done to; None if it is the only one."""
        free = [program for program in programs if program.name not in self._busy]
        if len(free) < 2:
            return None
        chosen = self._rng.choice(free)
        self._busy.add(chosen.name)
        return chosen

    async def _again(self, program: Program, down_s: float) -> None:
        program.kill()
        await asyncio.sleep(down_s)
        program.start()
        await asyncio.to_thread(program.wait_until_up)
        self._busy.discard(program.name)

    async def _kill_api(self) -> None:
        if (program := self._chosen(self._apis)) is not None:
            self.counts["API killed"] += 1
            await self._again(program, self._rng.uniform(0, 1))

    async def _kill_controller(self) -> None:
        if (program := self._chosen(self._controllers)) is not None:
            self.counts["controller killed"] += 1
            await self._again(program, self._rng.uniform(0, 1))

    async def _stop_controller(self) -> None:
        """Past its lease; in one of three cases it is killed then, as a machine that is lost."""
        if (program := self._chosen(self._controllers)) is None:
            return
        dies = self._rng.random() < 1 / 3
        self.counts["controller stopped, then killed" if dies else "controller stopped and continued"] += 1
        program.freeze()
        await asyncio.sleep(LEASE_S * self._rng.uniform(1.1, 2))
        if dies:
            await self._again(program, 0)
        else:
            program.thaw()
            self._busy.discard(program.name)

    async def _kill_redis(self) -> None:
        assert self._redis is not None, "there is one"
        if self._redis.name in self._busy:
            return
        self._busy.add(self._redis.name)
        is_long = self._rng.random() < 1 / 3
        self.counts["redis-server killed, away past all leases" if is_long else "redis-server killed"] += 1
        await self._again(self._redis, LEASE_S * self._rng.uniform(1.1, 2) if is_long else self._rng.uniform(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed:
    """What is left of a run.

    Attributes:
        store: Where everything is; a Redis server must run still.
        key_id: Whose account paid.
        told: What clients were told.
        harm: What was done, by name.
        seconds: How long it took.
    """

    store: str
    key_id: str
    told: Told
    harm: dict[str, int]
    seconds: float


async def crash(
    num_jobs: int,
    *,
    seed: int,
    folder: Path,
    uses_redis: bool,
    look: Callable[[Crashed], Awaitable[Json]],
    say: Callable[[str], None],
) -> Json:
    """Runs it; what ``look`` finds in the store before its server ends."""
    redis, store = redis_server(folder) if uses_redis else (None, str(folder / "jobs.sqlite"))
    env = environment(folder, SERVICE__LEASE_S=str(LEASE_S), SERVICE__HEARTBEAT_S="5")
    ports = [free_port() for _ in range(NUM_APIS)]
    common = ["--model", MODEL, "--store", store, "--concurrency"]
    apis = [
        Program(
            f"serve{number}",
            [*TTC, "serve", "--port", str(port), *common, "0"],
            folder=folder,
            env=env,
            ready="jobs in",
        )
        for number, port in enumerate(ports)
    ]
    controllers = [
        Program(
            f"controller{number}",
            [*TTC, "controller", *common, str(_CONCURRENCY)],
            folder=folder,
            env=env,
            ready="running jobs of",
        )
        for number in range(NUM_CONTROLLERS)
    ]
    with running(*([redis] if redis is not None else [])):
        key, key_id = await asyncio.to_thread(made_key, store, folder=folder, env=env)
        with running(*apis, *controllers):
            say(f"{num_jobs} jobs in {'Redis' if uses_redis else 'SQLite'}")
            started_at = time.monotonic()
            harm = Harm(apis, controllers, redis, seed=seed)
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=_TIMES) as session:
                clients = Clients(session, [f"http://127.0.0.1:{port}" for port in ports], seed=seed)
                async with asyncio.timeout(_END_S + num_jobs), asyncio.TaskGroup() as tasks:
                    tasks.create_task(_progress(clients, num_jobs, say))
                    harming = tasks.create_task(harm.run())
                    await clients.run(num_jobs)
                    harm.end()
                    await harming
            seconds = time.monotonic() - started_at
            say(f"all have ended after {seconds:.0f} s: {dict(harm.counts)}")
            crashed = Crashed(
                store=store, key_id=key_id, told=clients.told, harm=dict(harm.counts), seconds=round(seconds, 1)
            )
            return await look(crashed)


async def _progress(clients: Clients, num_jobs: int, say: Callable[[str], None]) -> None:
    while (num_ended := len(clients.told.answers)) < num_jobs:
        await asyncio.sleep(10)
        say(f"{num_ended} have ended, {len(clients.told.ids)} were handed in")


_TIMES = aiohttp.ClientTimeout(total=None, connect=10, sock_read=30)
