"""The verifier `process_reward`, through the controller and a scripted reward model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Budget, Orchestrator
from orchestrator.engine import Prompt
from orchestrator.errors import CapabilityMissing, EngineFailed, TtcError
from orchestrator.step_scores import split_steps
from orchestrator.testing import ScriptedEngine, babble
from orchestrator.testing.scripted_abilities import ScriptedJudge
from orchestrator.verifiers.process_reward import ProcessReward

RIGHT = "2+2=4\n\n4*3=12\n\nThe final answer is \\boxed{12}"
SLIP = "2+2=5\n\n5*3=15\n\nThe final answer is \\boxed{15}"
LATE = "2+2=4\n\n4*3=11\n\nThe final answer is \\boxed{11}"


def falls_at_the_first_error(_prompt: Prompt, text: str) -> float:
    return 0.1 if "=5" in text or "=11" in text else 0.9


def judge() -> ScriptedJudge:
    engine = ScriptedJudge(babble(), name="judge")
    engine.reward_rule = falls_at_the_first_error
    return engine


@given(st.lists(st.sampled_from(["a", " ", "\n", "\n\n", "bc"])).map("".join))
def test_steps_make_up_the_text_and_none_is_blank(text: str) -> None:
    steps = split_steps(text)
    assert "".join(steps) == (text if text.strip() else "")
    assert all(step.strip() for step in steps)
    assert all("\n\n" not in step.strip() for step in steps)


async def test_the_best_rewarded_solution_is_chosen_and_the_reading_is_on_the_bill() -> None:
    reward_model = judge()
    async with Orchestrator(ScriptedEngine([SLIP, RIGHT, LATE, SLIP]), roles={"verifier": reward_model}) as ttc:
        result = await ttc.solve("2+2 times 3?", policy="best_of_n", params={"n": 4}, verifier="process_reward")
        assert result.text == "12"
        assert result.confidence == pytest.approx(0.9)
        health = await reward_model.health()
    assert result.usage.verifier_tokens == {"judge": health.prompt_tokens}
    assert result.usage.verifier_calls == 4


async def test_equal_texts_are_paid_once() -> None:
    reward_model = judge()
    async with Orchestrator(ScriptedEngine([SLIP]), roles={"verifier": reward_model}) as ttc:
        await ttc.solve("2+2 times 3?", policy="best_of_n", params={"n": 5}, verifier="process_reward")
    assert len(reward_model.judged) == 3


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("last", 0.1), ("min", 0.1), ("mean", 1.1 / 3), ("product", 0.9 * 0.1 * 0.1)]
)
async def test_steps_are_put_together_as_asked(aggregation: str, expected: float) -> None:
    async with Orchestrator(ScriptedEngine([LATE]), roles={"verifier": judge()}) as ttc:
        verifier = ProcessReward(aggregation=aggregation)  # type: ignore[arg-type]
        result = await ttc.solve("2+2 times 3?", policy="best_of_n", params={"n": 1}, verifier=verifier)
    assert result.confidence == pytest.approx(expected)


async def test_what_the_budget_does_not_allow_is_not_judged_and_the_majority_stands() -> None:
    reward_model = judge()
    async with Orchestrator(ScriptedEngine([SLIP, RIGHT, RIGHT]), roles={"verifier": reward_model}) as ttc:
        result = await ttc.solve(
            "2+2 times 3?",
            policy="best_of_n",
            params={"n": 3},
            verifier="process_reward",
            budget=Budget(max_model_calls=3),
        )
    assert reward_model.judged == []
    assert result.text == "12"
    assert result.limited_by == "max_model_calls"


async def test_a_model_that_is_no_reward_model_is_named() -> None:
    async with Orchestrator(
        ScriptedEngine([RIGHT]), roles={"verifier": ScriptedEngine(babble(), name="chatty")}
    ) as ttc:
        with pytest.raises(TtcError) as caught:
            await ttc.solve("2+2 times 3?", policy="best_of_n", params={"n": 2}, verifier="process_reward")
    assert "chatty" in str(caught.value)
    assert "rewards of steps" in str(caught.value)
    assert isinstance(caught.value, CapabilityMissing)


async def test_a_reward_model_that_fails_leaves_scores_missing() -> None:
    class Broken(ScriptedJudge):
        async def reward_steps(self, *args: object, **options: object):  # type: ignore[no-untyped-def, override]
            raise EngineFailed("it died", model="judge")

    async with Orchestrator(ScriptedEngine([RIGHT]), roles={"verifier": Broken(babble(), name="judge")}) as ttc:
        result = await ttc.solve("2+2 times 3?", policy="best_of_n", params={"n": 2}, verifier="process_reward")
    assert result.text == "12"
    assert result.confidence is None
