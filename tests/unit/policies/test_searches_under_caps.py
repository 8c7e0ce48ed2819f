"""Searches over steps in whole jobs: caps that bind in the middle of a level, and what is left of it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Budget, JobState, Orchestrator, Result
from orchestrator.engine import Prompt
from orchestrator.job import StopReason
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.virtual_time import VirtualClock, run_virtual
from orchestrator.verifier import Candidate

NUM_STEPS = 4
SEARCHES = [
    pytest.param("rebase", {}, id="rebase"),
    pytest.param("beam_search", {"expansion": 2}, id="beam_search"),
    pytest.param("dvts", {"expansion": 2}, id="dvts"),
    pytest.param("lookahead", {"expansion": 2}, id="lookahead"),
    pytest.param("particle_filtering", {}, id="particle_filtering"),
    pytest.param("particle_filtering", {"iterations": 2}, id="particle_gibbs"),
]


def stepwise(prompt: Prompt, seed: int) -> str:
    """Four steps, good or bad by the seed, then the number of the good ones; when cued, the number so far."""
    written = prompt.continuation_text
    num_good = written.count("good")
    if written.endswith("{"):
        return f"{num_good}}}"
    left = NUM_STEPS - written.count("\n\n")
    step = f"this step is {'good' if seed % 2 else 'bad'} in all its many words\n\n"
    return f"{step * left}so it is \\boxed{{{num_good + left * (seed % 2)}}}"


def goodness(text: str) -> float:
    """The share of good steps, with one more of each kind."""
    return (1 + text.count("good")) / (2 + text.count("\n\n"))


async def judge(candidate: Candidate) -> float:
    return goodness(candidate.text)


def solved(policy: str, params: dict[str, Any], *, cap: int | None, seed: int = 0, scorer: Any = judge) -> Result:
    async def work() -> Result:
        engine = ScriptedEngine(stepwise, clock=VirtualClock())
        async with Orchestrator(engine, clock=VirtualClock()) as ttc:
            return await ttc.solve(
                "How good is it?",
                policy=policy,
                params={"width": 6, "verifier": "default", **params},
                verifier=scorer,
                budget=Budget(max_output_tokens=cap) if cap else None,
                answer="boxed",
                seed=seed,
            )

    return run_virtual(work())


@pytest.mark.parametrize(("policy", "params"), SEARCHES)
def test_with_money_enough_it_ends_by_itself_and_finds_what_is_best(policy: str, params: dict[str, Any]):
    result = solved(policy, {**params, "selection": "best"}, cap=None)
    assert result.stop_reason is StopReason.COMPLETED
    assert result.text == str(NUM_STEPS)
    assert result.confidence == pytest.approx((1 + NUM_STEPS) / (2 + NUM_STEPS))


@pytest.mark.parametrize(("policy", "params"), SEARCHES)
@pytest.mark.parametrize("cap", [70, 100, 150, 230, 330])
def test_a_cap_holds_in_the_middle_of_a_level_and_there_is_an_answer(policy: str, params: dict[str, Any], cap: int):
    result = solved(policy, params, cap=cap)
    assert result.usage.output_tokens <= cap
    assert result.state is JobState.SUCCEEDED
    assert result.text is not None
    result.tree.check_integrity()


@pytest.mark.parametrize(("policy", "params"), SEARCHES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_when_the_money_ends_before_any_answer_the_best_trajectory_is_concluded(
    policy: str, params: dict[str, Any], seed: int
):
    result = solved(policy, params, cap=110, seed=seed)
    assert result.stop_reason is StopReason.BUDGET
    assert result.answer.node is not None
    concluded = result.answer.node.parent
    assert concluded is not None
    newest = [node for node in result.tree if node.depth == concluded.depth and node is not result.answer.node]
    assert goodness(concluded.trajectory) == max(goodness(node.trajectory) for node in newest)


@pytest.mark.parametrize(("policy", "params"), SEARCHES)
def test_a_verifier_that_fails_costs_the_search_nothing_but_its_aim(policy: str, params: dict[str, Any]):
    async def broken(candidate: Candidate) -> float:
        raise OSError("no such judge")

    result = solved(policy, params, cap=None, scorer=broken)
    assert result.state is JobState.SUCCEEDED
    assert result.text in {str(number) for number in range(NUM_STEPS + 1)}
    assert result.confidence is None
