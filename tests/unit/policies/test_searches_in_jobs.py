"""A*, MCTS, AB-MCTS and Tree of Thoughts in whole jobs: caps, books, verifiers that fail, and replays."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Budget, JobState, Orchestrator, Result
from orchestrator.engine import Prompt
from orchestrator.job import StopReason
from orchestrator.stores.memory import MemoryStore
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.virtual_time import VirtualClock, run_virtual
from orchestrator.verifier import Candidate

NUM_STEPS = 3
SEARCHES = [
    pytest.param("a_star", {"max_expansions": 20}, id="a_star"),
    pytest.param("a_star", {"edge_cost": "consistent", "num_answers": 2, "max_frontier": 3}, id="consistent"),
    pytest.param("mcts", {"num_simulations": 20}, id="uct"),
    pytest.param("mcts", {"num_simulations": 20, "formula": "puct", "parallel": 4}, id="puct"),
    pytest.param("mcts", {"num_simulations": 10, "rollouts": True, "parallel": 2}, id="rollouts"),
    pytest.param("ab_mcts", {"max_samples": 10, "parallel": 3}, id="ab_mcts"),
    pytest.param("ab_mcts", {"max_samples": 10, "models": "small,large", "prior": "beta"}, id="two models"),
    pytest.param("tree_of_thoughts", {"beam": 2, "proposals": 3}, id="votes"),
    pytest.param("tree_of_thoughts", {"beam": 2, "judging": "value", "proposing": "list"}, id="verdicts"),
]


def stepwise(prompt: Prompt, seed: int) -> str:
    """Three steps, each good or bad by the seed, then the number of good ones; a fourth good one when it is to improve.

    As a judge it says something by the seed that a judge may say.
    """
    question = prompt.messages[-1].content
    if any(turn.role == "assistant" for turn in prompt.messages):
        return "this step is good in all its many words\n\n" * (NUM_STEPS + 1) + f"so it is \\boxed{{{NUM_STEPS + 1}}}"
    if "Best attempt" in question:
        return ("I cannot tell.", "Best attempt: 1", "Best attempt: 2")[seed % 3]
    if "Verdict" in question:
        return ("Hm.", "Verdict: sure", "Verdict: likely", "Verdict: impossible")[seed % 4]
    if "Propose" in question:
        return "1. One may add.\n2. One may multiply." if seed % 3 else "One may do this and that."
    written = prompt.continuation_text
    num_good = written.count("good")
    if written.endswith("{"):
        return f"{num_good}}}"
    steps = [
        f"this step is {'good' if seed >> step & 1 else 'bad'} in all its many words\n\n" for step in range(NUM_STEPS)
    ]
    left = "".join(steps[written.count("\n\n") :])
    return f"{left}so it is \\boxed{{{num_good + left.count('good')}}}"


def goodness(candidate: Candidate) -> float:
    """The share of good steps."""
    return (1 + candidate.text.count("good")) / (2 + candidate.text.count("\n\n"))


def solved(policy: str, params: dict[str, Any], *, cap: int | None = None, scorer: Any = goodness) -> Result:
    """The result of a job, after its replay has given the same."""

    async def work() -> Result:
        small, large = (ScriptedEngine(stepwise, name=name, clock=VirtualClock()) for name in ("small", "large"))
        store = MemoryStore(clock=VirtualClock())
        async with Orchestrator(small, large=large, store=store, clock=VirtualClock()) as ttc:
            result = await ttc.solve(
                "How good is it?",
                policy=policy,
                params=params,
                verifier=None if policy == "tree_of_thoughts" else scorer,
                budget=Budget(max_output_tokens=cap) if cap else None,
                answer="boxed",
                seed=1,
            )
            again = await ttc.replay(result.job_id)
        assert again.tree.to_json() == result.tree.to_json()
        assert (again.text, again.confidence, again.stop_reason) == (result.text, result.confidence, result.stop_reason)
        return result

    return run_virtual(work())


@pytest.mark.parametrize(("policy", "params"), SEARCHES)
def test_with_money_enough_it_ends_by_itself(policy: str, params: dict[str, Any]):
    result = solved(policy, params)
    assert result.stop_reason is StopReason.COMPLETED
    assert result.answer.node is not None
    assert result.text == str(result.answer.node.trajectory.count("good"))
    result.tree.check_integrity()


@pytest.mark.parametrize("cap", [60, 100, 150, 230])
@pytest.mark.parametrize(("policy", "params"), SEARCHES)
def test_a_cap_holds_wherever_it_binds_and_there_is_an_answer(policy: str, params: dict[str, Any], cap: int):
    result = solved(policy, params, cap=cap)
    assert result.usage.output_tokens <= cap
    assert result.usage.output_tokens == sum(node.output_tokens for node in result.tree)
    assert result.state is JobState.SUCCEEDED
    assert result.text is not None


@pytest.mark.parametrize(("policy", "params"), [case for case in SEARCHES if "tree" not in case.values[0]])
def test_a_verifier_that_fails_costs_the_search_nothing_but_its_aim(policy: str, params: dict[str, Any]):
    def broken(candidate: Candidate) -> float:
        raise OSError("no such judge")

    result = solved(policy, params, scorer=broken)
    assert result.state is JobState.SUCCEEDED
    assert result.text in {str(number) for number in range(NUM_STEPS + 2)}
    assert result.confidence is None


def test_an_improved_solution_is_the_answer_if_it_is_better():
    result = solved("ab_mcts", {"max_samples": 24, "parallel": 1})
    assert result.answer.node is not None
    assert result.answer.node.root.answers_query
    assert result.text == str(NUM_STEPS + 1)


def test_judges_words_are_paid_for_and_are_no_answers():
    result = solved("tree_of_thoughts", {"beam": 2, "proposals": 3})
    replies = [node for node in result.tree if not node.is_root and not result.tree.answers_query(node)]
    assert sum(node.output_tokens for node in replies) > 0
    assert result.answer.node not in replies
