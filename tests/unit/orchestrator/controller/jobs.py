"""Runs one job on virtual time and holds it against what every job must obey, its own replay included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator import Budget, Event, JobState, Ledger, Orchestrator, Result
from orchestrator.asking import CheckedJob
from orchestrator.errors import LeaseLost, StoreFailed, TtcError
from orchestrator.job import JobSpec
from orchestrator.journal import Recording
from orchestrator.policy import as_policy
from orchestrator.registry import load_policy
from orchestrator.store import JobRecord, JournalRow, Store
from orchestrator.stores.memory import MemoryStore
from orchestrator.testing import ScriptedEngine, arithmetic
from orchestrator.testing.virtual_time import VirtualClock

PROBLEM = "What is 3 + 4 * 2 - 5?"


class DurableMemory(MemoryStore):
    """Says that it outlives the process, so that progress marks are written."""

    @property
    def is_durable(self) -> bool:
        return True


@dataclass
class Ran:
    """One life of a job, and what is left of it."""

    result: Result
    events: list[Event]
    rows: list[JournalRow]
    record: JobRecord
    seconds: float
    raised: TtcError | None = None
    outcomes: list[Any] = field(default_factory=list)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def deltas(self, node_id: str) -> str:
        return "".join(e.data["text"] for e in self.events if e.kind == "delta" and e.data["node"] == node_id)


def an_engine(script: Any = None, **options: Any) -> ScriptedEngine:
    return ScriptedEngine(arithmetic() if script is None else script, **{"clock": VirtualClock(), **options})


def a_store() -> DurableMemory:
    return DurableMemory(clock=VirtualClock())


async def run_job(
    policy: Any,
    engine: Any = None,
    *,
    budget: Budget | None = None,
    store: Store | None = None,
    large: Any = None,
    roles: Mapping[str, Any] | None = None,
    tools: Mapping[str, Callable[..., Any]] | None = None,
    verifiers: Mapping[str, Any] | None = None,
    ledger: Ledger | None = None,
    problem: str = PROBLEM,
    replays: bool = True,
    on_event: Callable[[Orchestrator, Event], None] | None = None,
    **options: Any,
) -> Ran:
    """Runs it to its end, whatever that is, then checks its books and its replay."""
    engine = engine or an_engine()
    store = store or a_store()
    events: list[Event] = []
    clock = VirtualClock()
    async with Orchestrator(
        engine, large=large, roles=roles, store=store, tools=tools, ledger=ledger, clock=clock
    ) as ttc:
        for name, verifier in (verifiers or {}).items():
            ttc.register_verifier(name, verifier)

        def watch(event: Event) -> None:
            events.append(event)
            if on_event is not None:
                on_event(ttc, event)

        raised = None
        started = clock.monotonic()
        try:
            await ttc.solve(problem, policy=policy, budget=budget, on_event=watch, **options)
        except TtcError as error:
            raised = error
        seconds = clock.monotonic() - started
        assert events, f"the job did not even start: {raised!r}"
        assert events[-1].kind == "result", "the last event is the result"
        result: Result = events[-1].data["result"]
        assert not ttc.running
        if isinstance(raised, StoreFailed | LeaseLost):
            return Ran(result, events, [], JobRecord(id=result.job_id), seconds, raised)
        ran = Ran(result, events, await store.read(result.job_id), await store.get(result.job_id), seconds, raised)
    check(ran, engine, large, *(roles or {}).values())
    if replays and ran.record.state.is_terminal:
        await check_replay(ran, policy, verifiers or {})
    return ran


def check(ran: Ran, *engines: Any) -> None:
    """What holds for every job."""
    result, usage = ran.result, ran.result.usage
    result.tree.check_integrity()
    for engine in engines:
        if isinstance(engine, ScriptedEngine):
            assert not engine.live_requests, "nothing runs on when a job is over"
    for cap, spent in {
        "max_output_tokens": usage.output_tokens,
        "max_total_tokens": usage.total_tokens,
        "max_model_calls": usage.model_calls,
        "max_tool_calls": usage.tool_calls,
        "max_usd": usage.usd,
        "max_flops": usage.flops,
    }.items():
        limit = getattr(result.budget, cap)
        assert limit is None or spent <= limit or usage.overrun_tokens, f"{cap}: spent {spent} of {limit}"
    assert ran.record.state is result.state, "the store knows the job's state"
    stored = ran.record.result
    assert stored is not None
    assert stored["answer"] == result.text
    booked = Recording(ran.rows).usage
    assert booked.total_tokens == usage.total_tokens, "the journal holds everything that was spent"
    assert (booked.model_calls, booked.tool_calls) == (usage.model_calls, usage.tool_calls)
    assert booked.picodollars == usage.picodollars
    assert booked.verifier_tokens == usage.verifier_tokens
    assert [row.seq for row in ran.rows] == list(range(len(ran.rows)))
    if result.state is JobState.SUCCEEDED:
        assert result.answer.text is not None
        assert ran.raised is None
    if result.state is JobState.FAILED:
        assert ran.raised is result.error


async def check_replay(ran: Ran, policy: Any, verifiers: Mapping[str, Any]) -> Result:
    """The journal alone gives the same result, also for policies that nobody else could import."""
    store = await copy_of(ran, ran.rows)
    async with Orchestrator.offline(store=store) as ttc:
        for name, verifier in verifiers.items():
            ttc.register_verifier(name, verifier)
        spec = JobSpec.from_json(ran.record.spec)
        again = await life_of(ttc, ran.result.job_id, spec, policy, ran.rows, epoch=1, is_offline=True)
    assert_same(again, ran.result)
    assert again.state is ran.result.state, f"{again.state} {again.error!r}"
    assert again.stop_reason is ran.result.stop_reason
    assert again.limited_by == ran.result.limited_by
    if ran.result.error is not None:
        assert again.error is not None
        assert again.error.code == ran.result.error.code
    return again


def assert_same(again: Result, result: Result) -> None:
    assert again.tree.to_json() == result.tree.to_json()
    assert again.answer.text == result.answer.text
    assert again.confidence == result.confidence
    assert again.answer.alternatives == result.answer.alternatives
    for count in ("unique_kv_tokens", "logical_kv_tokens"):
        assert getattr(again.usage, count) == getattr(result.usage, count)


async def life_of(
    ttc: Orchestrator,
    job_id: str,
    spec: JobSpec,
    policy: Any,
    rows: list[JournalRow],
    *,
    epoch: int,
    is_offline: bool = False,
    on_event: Any = None,
) -> Result:
    """A later life of a job: `Orchestrator.resume` and `replay` for policies that cannot be imported."""
    decided = load_policy(policy) if isinstance(policy, str) else as_policy(policy)
    asked = CheckedJob(spec, decided, decided.params(spec.params))
    live = ttc._lives.replay if is_offline else ttc._lives.run
    return await live(job_id, asked, epoch=epoch, rows=rows, on_event=on_event)


async def copy_of(ran: Ran, rows: list[JournalRow]) -> DurableMemory:
    """A store as a controller leaves it that dies after these rows."""
    store = a_store()
    await store.create(JobRecord(id=ran.result.job_id, spec=ran.record.spec))
    epoch = await store.claim(ran.result.job_id, "dead:1:0", lease_s=1.0)
    if rows:
        await store.append(ran.result.job_id, epoch, rows)
    return store


async def resumed(
    ran: Ran, rows: list[JournalRow], policy: Any, engine: Any, *, large: Any = None, **options: Any
) -> tuple[Result, DurableMemory]:
    """The job's next life on a store that holds these rows only."""
    store = await copy_of(ran, rows)
    verifiers = options.pop("verifiers", {})
    async with Orchestrator(engine, large=large, store=store, clock=VirtualClock(), **options) as ttc:
        for name, verifier in verifiers.items():
            ttc.register_verifier(name, verifier)
        epoch = await store.claim(ran.result.job_id, "me", lease_s=60.0, force=True)
        spec = JobSpec.from_json(ran.record.spec)
        result = await life_of(ttc, ran.result.job_id, spec, policy, rows, epoch=epoch)
    store.check_integrity()
    return result, store
