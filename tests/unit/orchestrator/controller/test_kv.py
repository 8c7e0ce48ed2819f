"""What a job says of KV: what its engines count for it, and what its policy kept at each level."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from orchestrator import Usage
from orchestrator.actions import Expand, Release, Score
from orchestrator.engine import Finished, GenerateRequest, GenerationEvent, Prefilled, Prompt, StepRewards
from orchestrator.journal import Recording
from orchestrator.policy import Policy, PolicyContext, Query
from orchestrator.testing import ScriptedEngine, arithmetic
from orchestrator.testing.scripted_abilities import ScriptedJudge
from orchestrator.testing.virtual_time import VirtualClock, run_virtual
from orchestrator.verifiers.process_reward import ProcessReward

from .jobs import run_job


class TightEngine(ScriptedEngine):
    """Says that 3 tokens of each prompt and 2 of each sample were read again, and that each sample takes 10 cells."""

    def __init__(self) -> None:
        super().__init__(arithmetic(), clock=VirtualClock())
        self.num_finished = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        async for event in super().generate(request):
            if isinstance(event, Prefilled):
                yield replace(event, recomputed_tokens=3)
            elif isinstance(event, Finished):
                self.num_finished += 1
                yield replace(event, recomputed_tokens=2, tree_kv_cells=10 * self.num_finished)
            else:
                yield event


class TightJudge(ScriptedJudge):
    """Says that 5 tokens of each text were read again; remembers for which tree it read."""

    def __init__(self) -> None:
        super().__init__("", name="judge")
        self.tree_ids: list[str] = []

    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        self.tree_ids.append(tree_id)
        return replace(await super().reward_steps(prompt, steps, num_known=num_known), recomputed_tokens=5)


def two_levels(query: Query, ctx: PolicyContext[Any]) -> Policy:
    """Three samples, two of which are kept, then one more of the first."""
    first = yield Expand([query.root], 3)
    yield Release(first[:2])
    second = yield Expand([first[0]], 1)
    yield Release(())
    return second[0]


def test_what_the_engine_counts_is_part_of_the_usage_and_of_the_journal() -> None:
    ran = run_virtual(run_job(two_levels, TightEngine()))
    usage = ran.result.usage
    assert usage.recomputed_tokens == 2 * 3 + 4 * 2
    assert usage.peak_kv_cells == 40
    booked = Recording(ran.rows).usage
    assert (booked.recomputed_tokens, booked.peak_kv_cells) == (14, 40)


def test_what_is_kept_is_added_up_over_the_levels_and_letting_go_of_all_is_no_level() -> None:
    ran = run_virtual(run_job(two_levels))
    result = ran.result
    kept = [result.tree["0.0"], result.tree["0.1"]]
    tokens = [node.output_tokens for node in kept]
    root = result.usage.unique_kv_tokens - sum(node.output_tokens for node in result.tree)
    assert root > 0
    assert result.usage.num_levels == 1
    assert result.usage.kept_kv_tokens == result.usage.mean_kept_kv_tokens == root + sum(tokens)
    assert result.usage.kept_logical_kv_tokens == 2 * root + sum(tokens)
    assert Recording(ran.rows).usage.kept_kv_tokens == result.usage.kept_kv_tokens


def test_a_level_that_is_narrowed_twice_counts_once_with_what_is_left() -> None:
    def narrowing(query: Query, ctx: PolicyContext[Any]) -> Policy:
        samples = yield Expand([query.root], 4)
        yield Release(samples[:3])
        yield Release(samples[:1])
        more = yield Expand([samples[0]], 2)
        yield Release([samples[0], *more[:1]])
        return more[0]

    ran = run_virtual(run_job(narrowing))
    usage, tree = ran.result.usage, ran.result.tree
    first, second = tree["0.0"], tree["3.0"]
    root = usage.unique_kv_tokens - sum(node.output_tokens for node in tree)
    assert usage.num_levels == 2
    assert usage.kept_kv_tokens == (root + first.output_tokens) + (root + first.output_tokens + second.output_tokens)
    assert usage.mean_kept_kv_tokens == usage.kept_kv_tokens / 2
    assert Recording(ran.rows).usage.kept_kv_tokens == usage.kept_kv_tokens


def test_verifier_models_read_for_the_tree_and_their_recomputation_counts() -> None:
    def scored(query: Query, ctx: PolicyContext[Any]) -> Policy:
        samples = yield Expand([query.root], 2)
        yield Score(samples.nodes, verifier="process_reward")
        return samples[0]

    judge = TightJudge()
    ran = run_virtual(
        run_job(scored, roles={"verifier": judge}, verifiers={"process_reward": ProcessReward()}, replays=False)
    )
    assert judge.tree_ids
    assert set(judge.tree_ids) == {ran.result.job_id}
    assert ran.result.usage.recomputed_tokens == 5 * len(judge.tree_ids)


def test_an_engine_that_counts_no_kv_leaves_zeros() -> None:
    usage = run_virtual(run_job(two_levels)).result.usage
    assert (usage.recomputed_tokens, usage.peak_kv_cells) == (0, 0)
    assert "recomputed_tokens" not in usage.to_json()
    assert Usage.from_json(usage.to_json()) == usage
