"""SIGKILL at uniformly random moments: a resumed job ends as if nothing happened, and pays only for what was lost."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Answer, Budget, Orchestrator, PolicyContext, Query, Result
from orchestrator.actions import Expand, Next, Propose, Start
from orchestrator.engine import Delta, GenerateRequest, GenerationEvent, Prefilled
from orchestrator.journal import LOST_ALLOWANCE_TOKENS
from orchestrator.store import JobState
from orchestrator.stores.sqlite import SqliteStore
from orchestrator.testing import Latency, ScriptedEngine, arithmetic

NUM_KILLS = int(os.environ.get("TTC_SOAK_KILLS", "60"))
PROBLEM = "What is 3 + 4 * 2 - 5 + 6 * 7?"
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("self_consistency", {"n": 6}),
    ("adaptive_consistency", {"max_samples": 8, "confidence": 0.99, "parallel": 3}),
    ("early_stopping", {"max_samples": 10, "window": 3}),
    ("best_of_n", {"n": 4, "verifier": "generative"}),
    ("budget_forcing", {}),
    (f"{__name__}:streaming", {}),
]


def streaming(query: Query, ctx: PolicyContext[Any]) -> Generator[Any, Any, Any]:
    """Two streams that are read in turn to their ends (what is cut off in flight has no text to compare)."""
    first = yield Start(Expand([query.root], num_samples=6), parallel=3)
    second = yield Start(Expand([query.root], num_samples=4, forced="Let me see. "), parallel=2)
    votes: Counter[str] = Counter()
    for turn in range(15):
        node = yield Next(second if turn % 3 == 2 else first)
        if node is not None and node.answer_class is not None:
            votes.update([node.answer_class])
            yield Propose(Answer(votes.most_common(1)[0][0]))
    return Answer(votes.most_common(1)[0][0]) if votes else None


IDLE, WRITING, DECODING = 0, 1, 2


class Flags:
    """Memory that outlives the killed process: what it was doing, and what its engine has generated in all lives."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 64)

    def __getitem__(self, slot: int) -> int:
        return struct.unpack_from("q", self._memory, 8 * slot)[0]

    def __setitem__(self, slot: int, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * slot, value)


class WatchedStore(SqliteStore):
    flags: Flags

    async def append(self, *args: Any, **kwargs: Any) -> None:
        self.flags[0] = WRITING
        try:
            await super().append(*args, **kwargs)
        finally:
            self.flags[0] = IDLE


class WatchedEngine(ScriptedEngine):
    """Slow, so that kills land in it; counts its tokens where the killer can read them."""

    flags: Flags

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        stream = super().generate(request)
        try:
            while True:
                self.flags[0] = DECODING
                try:
                    event = await anext(stream)
                except StopAsyncIteration:
                    return
                finally:
                    self.flags[0] = IDLE
                if isinstance(event, Prefilled):
                    self.flags[1] += event.prompt_tokens
                elif isinstance(event, Delta):
                    self.flags[1] += event.num_tokens
                yield event
        finally:
            await stream.aclose()


def an_engine(flags: Flags) -> WatchedEngine:
    engine = WatchedEngine(
        arithmetic(accuracy=0.6), latency=Latency(prefill_s=0.004, token_s=0.0005, jitter=0.5), tokens_per_delta=8
    )
    engine.flags = flags
    return engine


async def live(path: Path, flags: Flags, policy: str, params: dict[str, Any], seed: int) -> None:
    """One life: starts the job, or goes on with it."""
    store = WatchedStore(path)
    store.flags = flags
    async with Orchestrator(an_engine(flags), store=store) as ttc:
        jobs = await store.list_jobs()
        if jobs and not jobs[0].state.is_terminal:
            await ttc.resume(jobs[0].id)
        elif not jobs:
            await ttc.solve(PROBLEM, policy=policy, params=params, seed=seed, budget=Budget(max_output_tokens=100_000))
    await store.aclose()


def fork_life(*args: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        asyncio.run(live(*args))
    except BaseException as error:  # the child must never return into the test runner
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(0)


def is_over(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


async def uninterrupted(policy: str, params: dict[str, Any], seed: int) -> Result:
    async with Orchestrator(an_engine(Flags())) as ttc:
        return await ttc.solve(
            PROBLEM, policy=policy, params=params, seed=seed, budget=Budget(max_output_tokens=100_000)
        )


async def replayed(path: Path) -> tuple[Result, dict[str, Any], JobState]:
    async with Orchestrator(ScriptedEngine("never asked"), store=path) as ttc:
        record = (await ttc.store.list_jobs())[0]
        ttc.store.check_integrity()
        return await ttc.replay(record.id), record.result or {}, record.state


def kill_and_resume(
    path: Path, flags: Flags, case: tuple[str, dict[str, Any], int], rng: random.Random, life_s: float
) -> list[int]:
    """Kills up to three lives at uniformly random moments, lets the last one finish; says what each kill hit."""
    hit: list[int] = []
    for _ in range(3):
        pid = fork_life(path, flags, *case)
        time.sleep(rng.uniform(0, life_s))
        code = is_over(pid)
        if code is not None:
            assert code == 0
            return hit
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        hit.append(flags[0])
    pid = fork_life(path, flags, *case)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return hit


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process whose pytest plugins have threads
def test_a_job_killed_at_any_moment_resumes_to_the_same_tree_and_pays_only_for_what_was_in_flight(
    tmp_path: Path,
) -> None:
    rng = random.Random(20261121)
    hits: Counter[int] = Counter()
    number = 0
    while hits.total() < NUM_KILLS:
        policy, params = POLICIES[number % len(POLICIES)]
        case = (policy, params, number)
        expected = asyncio.run(uninterrupted(*case))
        path, flags = tmp_path / f"{number}.sqlite", Flags()
        hit = kill_and_resume(path, flags, case, rng, life_s=0.06 + expected.usage.wall_s)
        hits.update(hit)
        number += 1
        if not path.exists():
            continue  # killed before the store was made, and the job with it

        result, stored, state = asyncio.run(replayed(path))
        assert state is JobState.SUCCEEDED
        assert json.dumps(result.tree.to_json()) == json.dumps(expected.tree.to_json())
        assert result.answer.text == expected.answer.text == stored["answer"]
        assert result.confidence == expected.confidence
        paid, lost = stored["total_tokens"], stored["usage"].get("lost_tokens", 0)
        assert paid - lost == expected.usage.total_tokens, "paid = uninterrupted + lost"
        assert paid >= flags[1], "everything the engine did in all lives was charged"
        in_flight = flags[1] - expected.usage.total_tokens
        peak = max(1, expected.usage.peak_parallel_sequences)
        prompt = 2 * len(PROBLEM) + 64
        slack = len(hit) * peak * (LOST_ALLOWANCE_TOKENS + prompt)
        assert lost <= in_flight + slack, "lost is no more than what was in flight, and the allowance for it"
    assert hits[WRITING] + hits[DECODING] >= NUM_KILLS / 5, f"kills landed idle: {hits}"
    print(
        f"{hits.total()} kills: {hits[DECODING]} in a decode, {hits[WRITING]} in a store write, {hits[IDLE]} elsewhere"
    )
