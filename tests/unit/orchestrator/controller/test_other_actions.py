from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from orchestrator import Answer, Budget, JobState, Ledger, Orchestrator, StopReason
from orchestrator.actions import AskHuman, CallTool, Compute, Embed, Expand, Propose, Release, Score
from orchestrator.errors import (
    CapabilityMissing,
    EngineFailed,
    JobConflict,
    PolicyFailed,
    UnknownName,
    VerifierHung,
)
from orchestrator.store import JournalRow
from orchestrator.testing import Fault, FaultKind, Latency, ScriptedEngine, arithmetic, judge, on_calls
from orchestrator.testing.scripted_abilities import ScriptedEmbedder
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

from .jobs import PROBLEM, DurableMemory, an_engine, run_job


def scored_by(name: str) -> Any:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 3)
        scores = yield Score(samples.nodes, name)
        return Answer(f"{list(scores)} {len(scores.problems)}")

    return policy


# -- Score


@pytest.mark.parametrize("value", [float("nan"), 2.0, -1, "0.5", None, [1]])
def test_a_score_that_is_none_is_missing_and_has_a_reason(value: Any) -> None:
    async def odd(_: Any) -> Any:
        return value

    ran = run_virtual(run_job(scored_by("odd"), verifiers={"odd": odd}))
    assert ran.result.text == "[None, None, None] 3"
    assert ran.result.usage.verifier_calls == 3


def test_a_verifier_that_raises_leaves_scores_missing() -> None:
    async def raises(_: Any) -> float:
        raise ValueError("no idea")

    ran = run_virtual(run_job(scored_by("raises"), verifiers={"raises": raises}))
    assert ran.result.text == "[None, None, None] 3"
    (row,) = (row for row in ran.rows if row.kind == "done" and row.data["action"]["type"] == "Score")
    assert "no idea" in row.data["outcome"]["problems"][0]


def test_a_verifier_that_hangs_is_given_up_on_and_at_the_deadline_at_the_latest() -> None:
    async def hangs(_: Any) -> float:
        await asyncio.sleep(1e6)
        return 1.0

    ran = run_virtual(run_job(scored_by("hangs"), verifiers={"hangs": hangs}))
    assert ran.result.text == "[None, None, None] 3"
    assert ran.seconds <= 31
    ran = run_virtual(run_job(scored_by("hangs"), verifiers={"hangs": hangs}, budget=Budget(max_seconds=4)))
    assert ran.seconds <= 4.25
    assert ran.result.limited_by == "max_seconds"


def test_a_model_that_fails_at_judging_leaves_its_score_missing_and_its_cost_in_the_books() -> None:
    verifier = an_engine(judge(0.9), name="judge", faults=on_calls({1: Fault(after_tokens=0)}))
    ran = run_virtual(run_job(scored_by("generative"), roles={"verifier": verifier}))
    assert (ran.result.text or "").count("None") == 1
    usage = ran.result.usage
    assert usage.verifier_tokens["judge"] == verifier._counters.prompt_tokens + verifier._counters.output_tokens


def test_a_model_that_hangs_at_judging_is_dropped_and_charged_what_it_may_have_done() -> None:
    hang = Fault(kind=FaultKind.HANG, after_tokens=0)
    verifier = an_engine(judge(0.9), name="judge", faults=on_calls({1: hang}))
    ran = run_virtual(run_job(scored_by("generative"), roles={"verifier": verifier}, budget=Budget(max_seconds=100)))
    assert ran.result.text == "[None, None, None] 1"
    assert ran.result.usage.is_estimated
    counted = verifier._counters.prompt_tokens + verifier._counters.output_tokens
    assert ran.result.usage.verifier_tokens["judge"] >= counted


def test_an_engine_of_judges_that_raises_anything_does_not_fail_the_job() -> None:
    class Breaks(ScriptedEngine):
        async def generate(self, request: Any) -> Any:
            raise OSError("pipe")
            yield

    ran = run_virtual(run_job(scored_by("generative"), roles={"verifier": Breaks("x", name="b")}))
    assert ran.result.text == "[None, None, None] 0"


def test_judges_that_cannot_be_paid_for_leave_all_scores_missing() -> None:
    ran = run_virtual(run_job(scored_by("generative"), an_engine(arithmetic()), budget=Budget(max_model_calls=3)))
    assert ran.result.text == "[None, None, None] 0"
    assert ran.result.limited_by == "max_model_calls"


def test_a_judge_without_log_probabilities_is_a_capability_that_is_missing() -> None:
    from orchestrator.engine import Capability
    from orchestrator.testing.scripted import ALL_CAPABILITIES

    engine = an_engine(capabilities=ALL_CAPABILITIES - {Capability.LOGPROBS})
    ran = run_virtual(run_job(scored_by("generative"), engine))
    assert isinstance(ran.raised, CapabilityMissing)


def test_an_unknown_verifier_is_named() -> None:
    ran = run_virtual(run_job(scored_by("oracle"), replays=False))
    assert isinstance(ran.raised, UnknownName)
    assert "oracle" in str(ran.raised)


def test_scoring_nothing_gives_nothing() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        scores = yield Score([], "generative")
        return Answer(str(len(scores)))

    assert run_virtual(run_job(policy)).result.text == "0"


def test_a_verifier_whose_threads_never_return_fails_the_job() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 4)
        yield Score(samples.nodes, "stuck")

    from orchestrator.scoring_guard import guarded

    def slow(candidate: Any) -> float:  # a closure: it runs in a thread
        time.sleep(0.4)
        return 1.0

    async def work() -> None:
        async with Orchestrator(an_engine()) as ttc:
            ttc._equipment.add_verifier("stuck", guarded(slow, name="stuck", timeout_s=0.02))
            with pytest.raises(VerifierHung):
                await ttc.solve(PROBLEM, policy=policy)

    asyncio.run(work())


# -- Embed


def embeds(query: Any, ctx: Any) -> Any:
    samples = yield Expand([query.root], 2)
    vectors = yield Embed(samples.nodes)
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, 64)
    return Answer(f"{float((vectors[0] * vectors[0]).sum()):.3f} {float(vectors.sum()):.6f}")


def test_embeddings_are_paid_for_journaled_and_replayed() -> None:
    embedder = ScriptedEmbedder("x", name="embedder", clock=VirtualClock())
    ran = run_virtual(run_job(embeds, roles={"embedder": embedder}))
    assert (ran.result.text or "").startswith("1.000")
    assert embedder._counters.prompt_tokens > 0
    small = sum(len(node.text) > 0 for node in ran.result.tree)
    assert small == 2
    (row,) = (row for row in ran.rows if row.kind == "done" and row.data["action"]["type"] == "Embed")
    assert row.data["usage"]["prompt_tokens"] == embedder._counters.prompt_tokens


def test_an_engine_without_embeddings_says_which_have_them() -> None:
    ran = run_virtual(run_job(embeds))
    assert isinstance(ran.raised, CapabilityMissing)


def test_an_embedder_that_fails_or_hangs_is_charged_its_bound_and_ends_in_time() -> None:
    class Fails(ScriptedEmbedder):
        async def embed(self, texts: Any) -> Any:
            raise EngineFailed("gone", model="e")

    class Hangs(ScriptedEmbedder):
        async def embed(self, texts: Any) -> Any:
            await asyncio.sleep(1e6)

    ran = run_virtual(run_job(embeds, roles={"embedder": Fails("x", name="e")}))
    assert isinstance(ran.raised, EngineFailed)
    assert ran.result.usage.is_estimated
    ran = run_virtual(run_job(embeds, roles={"embedder": Hangs("x", name="e")}, budget=Budget(max_seconds=5)))
    assert ran.seconds <= 5.25


# -- Compute


def double(value: float) -> Any:
    return {"double": 2 * value}


def nonsense(_: Any) -> Any:
    return object()


def explodes(_: Any) -> Any:
    raise ZeroDivisionError("boom")


def computes(fn: Any, *args: Any) -> Any:
    def policy(query: Any, ctx: Any) -> Any:
        try:
            value = yield Compute(fn, args)
        except PolicyFailed as error:
            return Answer(f"failed: {error}")
        return Answer(str(value))

    return policy


def test_compute_gives_what_a_replay_will_give() -> None:
    ran = asyncio.run(run_job(computes(divmod, 7, 2)))
    assert ran.result.text == "[3, 1]"  # a tuple is a list once it has been written down


@pytest.mark.parametrize(
    ("fn", "args", "reason"),
    [
        (lambda: 1, (), "imported"),
        (open, ("/does/not/exist",), "FileNotFoundError"),
        (float, ("nan",), "JSON"),
        (complex, (1, 2), "JSON"),
        (divmod, (1, 0), "ZeroDivisionError"),
    ],
)
def test_a_computation_that_cannot_be_done_is_thrown_into_the_policy(fn: Any, args: Any, reason: str) -> None:
    ran = asyncio.run(run_job(computes(fn, *args)))
    assert (ran.result.text or "").startswith("failed: Compute(")
    assert reason in (ran.result.text or "")


def test_arguments_that_are_not_json_fail_the_policy() -> None:
    ran = run_virtual(run_job(computes(sum, {1, 2})))
    assert "not made of what it should be" in (ran.result.text or "")


def test_a_computation_ends_with_the_deadline_and_with_a_cancellation() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Propose(Answer("before"))
        yield Compute(time.sleep, (30,))

    started = time.monotonic()
    ran = asyncio.run(run_job(policy, budget=Budget(max_seconds=0.3)))
    assert ran.result.text == "before"
    assert ran.result.stop_reason is StopReason.DEADLINE
    assert time.monotonic() - started < 5


# -- CallTool


def calls(name: str, arguments: Any, times: int = 1) -> Any:
    def policy(query: Any, ctx: Any) -> Any:
        node = query.root
        for _ in range(times):
            node = yield CallTool(node, name, arguments)
        return Answer(node.text, node)

    return policy


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


async def never() -> str:
    await asyncio.sleep(1e6)
    return "?"


def broken() -> str:
    raise KeyError("what")


def test_tools_are_called_and_their_results_are_nodes() -> None:
    ran = run_virtual(run_job(calls("add", {"a": 1, "b": 2}), tools={"add": add}))
    assert ran.result.text == "3"
    assert ran.result.tree["0.0"].forced == "3"
    assert ran.result.usage.tool_calls == 1


def test_a_plain_function_is_a_tool_too() -> None:
    ran = asyncio.run(run_job(calls("greet", {"name": "you"}), tools={"greet": lambda name: {"hello": name}}))
    assert ran.result.text == '{"hello": "you"}'


@pytest.mark.parametrize(
    ("tool", "arguments", "text"),
    [(never, {}, "error: no result within 60 s"), (add, {"c": 1}, "error: TypeError")],
)
def test_a_tool_that_fails_says_so_to_the_model(tool: Any, arguments: Any, text: str) -> None:
    ran = run_virtual(run_job(calls("tool", arguments), tools={"tool": tool}))
    assert (ran.result.text or "").startswith(text)
    assert ran.result.usage.tool_calls == 1


def test_a_tool_that_raises_says_so_to_the_model() -> None:
    ran = asyncio.run(run_job(calls("broken", {}), tools={"broken": broken}))
    assert ran.result.text == "error: KeyError('what')"


def test_an_unknown_tool_is_named_with_those_there_are() -> None:
    ran = run_virtual(run_job(calls("subtract", {}), tools={"add": add}))
    assert isinstance(ran.raised, UnknownName)
    assert "add" in str(ran.raised)
    assert ran.result.usage.tool_calls == 0


def test_tool_calls_have_a_cap_of_their_own() -> None:
    job = run_job(calls("add", {"a": 1, "b": 2}, times=5), tools={"add": add}, budget=Budget(max_tool_calls=2))
    ran = run_virtual(job)
    assert ran.result.stop_reason is StopReason.BUDGET
    assert ran.result.usage.tool_calls == 2
    assert ran.result.limited_by == "max_tool_calls"


def test_a_tool_that_hangs_does_not_outlive_the_deadline() -> None:
    ran = run_virtual(run_job(calls("never", {}), tools={"never": never}, budget=Budget(max_seconds=3)))
    assert ran.seconds <= 3.25
    assert ran.result.usage.tool_calls == 1


def test_a_tool_call_that_a_crash_cut_off_is_charged() -> None:
    from .jobs import resumed

    policy = calls("add", {"a": 1, "b": 2})
    ran = run_virtual(run_job(policy, tools={"add": add}))
    cut = [row.kind for row in ran.rows].index("dispatch") + 1
    result, _ = run_virtual(resumed(ran, ran.rows[:cut], policy, an_engine(), tools={"add": add}))
    assert result.text == "3"
    assert result.usage.tool_calls == 2


# -- AskHuman


def asks(query: Any, ctx: Any) -> Any:
    samples = yield Expand([query.root], 2)
    reply = yield AskHuman("which?")
    more = yield Expand([samples[0]], 1, forced=f" {reply}")
    return Answer(f"{reply} {len(more)}", more[0])


def test_a_job_that_asks_waits_without_lease_or_clock_and_goes_on_with_the_reply() -> None:
    async def work() -> None:
        store = DurableMemory(clock=VirtualClock())
        tenant = Ledger(name="tenant")
        engine = an_engine(arithmetic(), latency=Latency(token_s=0.01))
        async with Orchestrator(engine, store=store, clock=VirtualClock(), ledger=tenant) as ttc:
            waiting = await ttc.solve(PROBLEM, policy=asks, budget=Budget(max_seconds=10))
            assert waiting.state is JobState.WAITING
            assert waiting.question == "which?"
            assert waiting.stop_reason is StopReason.WAITING
            again = await ttc.resume(waiting.job_id)
            assert again.question == "which?"
            assert again.usage.total_tokens == waiting.usage.total_tokens
            await asyncio.sleep(1000)
            async with Orchestrator.offline(store=store) as offline:
                assert (await offline.replay(waiting.job_id)).question == "which?"
                await offline.reply(waiting.job_id, "the first")
                with pytest.raises(JobConflict):
                    await offline.reply(waiting.job_id, "twice")
            result = await ttc.resume(waiting.job_id)
            assert result.text == "the first 1"
            assert result.usage.wall_s < 10
            assert tenant.spent.output_tokens == result.usage.output_tokens, "what was known above is not charged twice"
            assert tenant.reserved.to_json() == {}
            async with Orchestrator.offline(store=store) as offline:
                replayed = await offline.replay(result.job_id)
            assert replayed.tree.to_json() == result.tree.to_json()
            assert replayed.text == result.text
            with pytest.raises(JobConflict):
                await ttc.resume(result.job_id)

    run_virtual(work())


# -- Release


def test_release_names_the_prefixes_to_keep_and_everything_is_let_go_at_the_end() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 2)
        yield Release([samples[1]])
        return samples[0]

    engine = an_engine()
    ran = run_virtual(run_job(policy, engine))
    (tree, kept), (last_tree, nothing) = engine.released
    assert tree == last_tree == ran.result.job_id
    assert kept == (ran.result.tree["0.1"].prompt(),)
    assert nothing == ()


def test_rows_are_numbered_without_gaps() -> None:
    ran = run_virtual(run_job("best_of_n", params={"n": 2}))
    assert all(isinstance(row, JournalRow) for row in ran.rows)
