"""The verifier `process_reward`, through the controller and a scripted reward model, and on a meter of its own."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import Budget, Candidate, Message, Orchestrator
from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import Prompt, Span, StepRewards
from orchestrator.errors import CapabilityMissing, EngineFailed, TtcError
from orchestrator.step_scores import split_steps
from orchestrator.testing import ScriptedEngine, babble
from orchestrator.testing.scripted_abilities import ScriptedJudge
from orchestrator.verifier import Meter
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


class StepMeter:
    """Buys rewards of steps from a rule, without a job; has a memory if it is given one.

    Attributes:
        asked: For each call, what was asked: the steps, and how many of them were known.
        judged: The texts that were rewarded, in order.
        refused: Texts that there is no money for.
    """

    def __init__(
        self, *, refused: Collection[str] = (), rule: Callable[[Sequence[str]], Sequence[float]] | None = None
    ) -> None:
        self.asked: list[list[tuple[tuple[str, ...], int]]] = []
        self.judged: list[str] = []
        self.refused = refused
        self._rule = rule or (lambda texts: [len(text) % 7 / 10 for text in texts])

    async def reward_steps(
        self, prompts: Sequence[Prompt], steps: Sequence[Sequence[str]], *, num_known: Sequence[int], model: str
    ) -> Sequence[StepRewards | None]:
        assert model == "verifier"
        self.asked.append([(tuple(own), known) for own, known in zip(steps, num_known, strict=True)])
        return [self._one(own, known) for own, known in zip(steps, num_known, strict=True)]

    def _one(self, steps: Sequence[str], num_known: int) -> StepRewards | None:
        if "".join(steps) in self.refused:
            return None
        texts = ["".join(steps[: end + 1]) for end in range(num_known, len(steps))]
        self.judged += texts
        return StepRewards(tuple(self._rule(texts)), len("".join(steps)))


class RememberingMeter(StepMeter):
    """A meter of a job whose memory it shares with the meters before it."""

    def __init__(self, memory: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.memory = memory


def candidates(*texts: str, problem: str = "p") -> list[Candidate]:
    prompt = Prompt((Message("user", problem),))
    return [
        Candidate(problem=problem, text=text, answer=None, answer_class=None, is_final=False, prompt=prompt)
        for text in texts
    ]


async def test_a_level_pays_for_its_new_steps_only() -> None:
    memory: dict[str, Any] = {}
    levels = [("a\n\n", "b\n\n"), ("a\n\nc\n\n", "a\n\nd\n\n", "b\n\ne\n\n"), ("a\n\nd\n\nf", "a\n\nd\n\ng")]
    asked, judged = [], []
    for level in levels:
        meter = RememberingMeter(memory)
        await ProcessReward().score(candidates(*level), meter)
        asked.append([[known for _, known in call] for call in meter.asked])
        judged += meter.judged
    assert asked == [[[0, 0]], [[1, 1, 1]], [[2, 2]]]
    assert len(judged) == len(set(judged)) == 7


TEXTS = st.lists(st.lists(st.sampled_from(["a\n\n", "b\n\n", "c", "\n\n"]), max_size=4).map("".join), max_size=6)


@given(st.lists(TEXTS, max_size=4), st.sampled_from(["last", "min", "mean", "product"]))
@settings(max_examples=60, deadline=None)
async def test_what_is_remembered_changes_the_price_and_no_score(levels: list[list[str]], aggregation: Any) -> None:
    verifier = ProcessReward(aggregation=aggregation)
    memory: dict[str, Any] = {}
    remembering = [RememberingMeter(memory) for _ in levels]
    forgetful = [StepMeter() for _ in levels]
    for level, meter, fresh in zip(levels, remembering, forgetful, strict=True):
        assert await verifier.score(candidates(*level), meter) == await verifier.score(candidates(*level), fresh)
    judged = [text for meter in remembering for text in meter.judged]
    assert len(judged) == len(set(judged))
    assert set(judged) == {text for meter in forgetful for text in meter.judged}


async def test_a_step_that_a_limit_cut_and_that_went_on_is_judged_again_and_what_came_before_it_is_not() -> None:
    memory: dict[str, Any] = {}
    verifier = ProcessReward(aggregation="mean")
    first, second = RememberingMeter(memory), RememberingMeter(memory)
    await verifier.score(candidates("a\n\nhalf a st"), first)
    await verifier.score(candidates("a\n\nhalf a step\n\nb"), second)
    assert first.judged == ["a\n\n", "a\n\nhalf a st"]
    assert second.judged == ["a\n\nhalf a step\n\n", "a\n\nhalf a step\n\nb"]


async def test_a_trunk_that_is_new_is_judged_for_one_solution_before_the_others_are_read() -> None:
    meter = StepMeter()
    await ProcessReward().score(candidates("a\n\nb\n\nc", "a\n\nb\n\nd", "a\n\ne", "f"), meter)
    assert [[known for _, known in call] for call in meter.asked] == [[0, 0], [2, 1]]
    assert len(meter.judged) == len(set(meter.judged)) == 6


async def test_when_one_fails_those_that_waited_for_its_trunk_pay_for_themselves_all_at_once() -> None:
    meter = StepMeter(refused={"a\n\nb"})
    scores = await ProcessReward().score(candidates("a\n\nb", "a\n\nc", "a\n\nd", "a\n\nb"), meter)
    assert len(meter.asked) == 2
    assert [score is None for score in scores] == [True, False, False, True]


async def test_another_job_another_problem_and_another_model_know_nothing_of_it() -> None:
    memory: dict[str, Any] = {}
    verifier = ProcessReward()
    await verifier.score(candidates("a\n\nb"), RememberingMeter(memory))
    for meter, problem in [(RememberingMeter({}), "p"), (RememberingMeter(memory), "q")]:
        await verifier.score(candidates("a\n\nb", problem=problem), meter)
        assert len(meter.judged) == 2
    await ProcessReward(model="other").score(candidates(), RememberingMeter(memory))
    assert len(memory) == 2


async def test_the_memory_of_a_job_is_bounded() -> None:
    memory: dict[str, Any] = {}
    many = [text for number in range(1001) for text in candidates("s\n\n" * 100, problem=str(number))]
    await ProcessReward().score(many, RememberingMeter(memory))
    after = RememberingMeter(memory)
    scores = await ProcessReward().score(candidates("s\n\n", problem="0"), after)
    assert after.judged == ["s\n\n"]
    assert scores == [0.3]
    assert next(iter(memory.values())).num_steps == 1


@pytest.mark.parametrize("rewards", [(), (0.5,), (0.5, 0.5, 0.5), (0.5, math.nan), (math.inf, 0.5)])
async def test_what_is_not_one_number_for_each_step_is_no_score_and_is_not_remembered(rewards: tuple[float]) -> None:
    memory: dict[str, Any] = {}
    wrong = RememberingMeter(memory, rule=lambda texts: rewards)
    assert await ProcessReward(aggregation="min").score(candidates("a\n\nb"), wrong) == [None]
    right = RememberingMeter(memory)
    assert await ProcessReward().score(candidates("a\n\nb"), right) == [0.4]
    assert len(right.judged) == 2


def writes_step_by_step(prompt: Prompt, seed: int) -> str:
    depth = prompt.continuation_text.count("\n\n")
    return f"step {depth} in way {seed % 3}\n\n" if depth < 3 else f"The final answer is \\boxed{{{seed % 2}}}"


class ReadingOnJudge(ScriptedJudge):
    """As a real one: what it has in its cache ends where the first step begins that it is asked about."""

    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        found = await super().reward_steps(prompt, steps, num_known=num_known)
        known = Prompt(prompt.messages, (Span("".join(steps[:num_known])),))
        return replace(found, cached_tokens=self.count_prompt_tokens(known) if num_known else 0)


class Forgetful:
    """Process rewards on a meter whose memory is hidden."""

    name = "process_reward"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        class Hidden:
            reward_steps = staticmethod(meter.reward_steps)

        return await ProcessReward().score(candidates, Hidden())


async def searched(judge: ScriptedJudge, *, verifier: Any = "process_reward", problems: Sequence[str] = ("?",)) -> Any:
    writer = ScriptedEngine(writes_step_by_step, name="writer")
    async with Orchestrator(writer, roles={"verifier": judge}) as ttc:
        return [await ttc.solve(each, policy="rebase", params={"width": 8}, verifier=verifier) for each in problems]


async def test_a_search_judges_each_step_once_and_its_usage_shows_that_the_trunk_was_not_paid_again() -> None:
    prices = ModelCost(parameters=10**6, prices=TokenPrices(prompt_usd=1, cached_prompt_usd=0))
    thrifty, dear = (ReadingOnJudge(babble(), name="judge", cost=prices) for _ in range(2))
    (result,) = await searched(thrifty)
    (same,) = await searched(dear, verifier=Forgetful())
    assert len(thrifty.judged) == len(set(thrifty.judged)) < len(dear.judged)
    assert (result.text, result.confidence) == (same.text, same.confidence)
    assert result.usage.verifier_calls == same.usage.verifier_calls
    assert result.usage.cached_prompt_tokens > same.usage.cached_prompt_tokens
    assert result.usage.picodollars < 0.8 * same.usage.picodollars
    assert result.usage.flops < 0.8 * same.usage.flops


async def test_jobs_of_one_orchestrator_share_no_rewards_not_even_of_the_same_problem() -> None:
    once, twice = (ScriptedJudge(babble(), name="judge") for _ in range(2))
    await searched(once)
    await searched(twice, problems=["?", "?"])
    assert twice.judged == once.judged * 2


async def test_a_solution_that_is_too_long_for_the_reward_model_is_not_scored_and_the_job_goes_on() -> None:
    judge = ScriptedJudge(babble(), name="judge", context_length=60)
    long = "so " * 100 + "\n\nThe final answer is \\boxed{1}"
    async with Orchestrator(ScriptedEngine([long, RIGHT]), roles={"verifier": judge}) as ttc:
        result = await ttc.solve("?", policy="best_of_n", params={"n": 12}, verifier="process_reward")
    assert result.usage.output_tokens > 12 * 30, "a long one is among them"
    assert result.text == "12"
    assert len(judge.judged) == 3
