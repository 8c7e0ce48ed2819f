"""What every policy must keep, whatever it is given: one suite for all of them, yours included.

    @pytest.mark.parametrize("case", [PolicyCase(my_policy, {"n": 3}, max_samples=3)], ids=str)
    class TestMyPolicy(PolicyContract):
        pass

Needs pytest and hypothesis; nothing else in `orchestrator.testing` does.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import registry
from orchestrator.actions import (
    Answer,
    CallTool,
    Compute,
    Conclude,
    Embed,
    Expand,
    Next,
    Samples,
    Score,
    ScoreList,
    Start,
)
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted, InvalidRequest
from orchestrator.policy import PolicySpec
from orchestrator.testing.driver import PolicyDriver, Sampled
from orchestrator.tree import Node


def installed_policies() -> dict[str, PolicySpec]:
    """All registered policies by name, sorted."""
    return {name: registry.load_policy(name) for name in registry.names("policy")}


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """A policy with parameters under which the contract is checked.

    Attributes:
        spec: The policy.
        params: Its parameters.
        max_samples: Most samples it may ask for with them, `Conclude` not counted. A policy that yields more than
            20 actions for each, and 100 besides, is taken for one that never ends.
        target_confidence: As in the job's budget.
    """

    spec: PolicySpec
    params: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON values
    max_samples: int = 1
    target_confidence: float | None = None

    def __str__(self) -> str:
        return "-".join([self.spec.name, *(f"{name}={value}" for name, value in self.params.items())])

    def drive(self, *, seed: int = 0, cue: str = "") -> PolicyDriver:
        """The policy, started."""
        return PolicyDriver(self.spec, params=self.params, seed=seed, cue=cue, target_confidence=self.target_confidence)


@dataclass(frozen=True, slots=True)
class World:
    """How everything a policy asks for turns out; each sequence is used over and over.

    Attributes:
        replies: The samples.
        grants: The part of each expansion that can be paid for, in [0, 1].
        scores: What verifiers say.
        cue: The answer cue.
    """

    replies: tuple[Sampled, ...]
    grants: tuple[float, ...]
    scores: tuple[float | None, ...]
    cue: str = ""


_REPLIES = st.builds(
    Sampled,
    answer=st.sampled_from([None, "1", "2", "3"]),
    finish=st.sampled_from([FinishReason.END, FinishReason.END, FinishReason.LENGTH, FinishReason.STOP]),
    output_tokens=st.integers(0, 30),
    logprob=st.none() | st.floats(-50, 0),
)
WORLDS = st.builds(
    World,
    replies=st.lists(_REPLIES, min_size=1, max_size=12).map(tuple),
    grants=st.lists(st.just(1.0) | st.floats(0, 1), min_size=1, max_size=4).map(tuple),
    scores=st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=6).map(tuple),
    cue=st.sampled_from(["", "\nThe answer is "]),
)
_CHECKED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
)


class PolicyContract:
    """Subclass it as a test class parametrised by ``case`` (a `PolicyCase`)."""

    @given(world=WORLDS)
    @_CHECKED
    def test_it_ends_with_a_sound_answer_whatever_the_samples_say(self, case: PolicyCase, world: World) -> None:
        """No pattern of samples, grants and scores makes it loop, fail or contradict itself."""
        driver = case.drive(cue=world.cue)
        _Game(case, driver, world).play()
        check_answer(driver.answer, driver)
        for proposal in driver.proposals:
            check_answer(proposal, driver)
            assert proposal.text is not None, "an empty proposal keeps the controller from falling back on better"

    @given(world=WORLDS)
    @_CHECKED
    def test_it_never_asks_for_more_samples_than_its_parameters_allow(self, case: PolicyCase, world: World) -> None:
        """Caps on samples are the policy's own promise."""
        driver = case.drive(cue=world.cue)
        _Game(case, driver, world).play()
        assert driver.num_requested <= case.max_samples, f"{driver.num_requested} samples, not {case.max_samples}"

    @given(world=WORLDS, seed=st.integers(0, 3))
    @_CHECKED
    def test_it_repeats_itself_when_seed_and_outcomes_repeat(self, case: PolicyCase, world: World, seed: int) -> None:
        """What a journal is replayed into must ask for the same again."""
        first, second = case.drive(seed=seed, cue=world.cue), case.drive(seed=seed, cue=world.cue)
        _Game(case, first, world).play()
        _Game(case, second, world).play()
        for one, other in itertools.zip_longest(described(first.actions), described(second.actions)):
            assert one == other, f"it asks for something else the second time: {other}, not {one}"
        one, other = described(first.answer), described(second.answer)
        assert one == other, f"it answers something else the second time: {other}, not {one}"

    @given(world=WORLDS, turn=st.integers(0, 30))
    @_CHECKED
    def test_it_survives_an_exhausted_budget_at_any_yield(self, case: PolicyCase, world: World, turn: int) -> None:
        """It returns or lets the error through, and nothing else."""
        driver = case.drive(cue=world.cue)
        game = _Game(case, driver, world)
        try:
            game.play(most_turns=turn)
            if not driver.is_finished:
                driver.throw()
            game.play(is_broke=True)
        except BudgetExhausted:
            return
        check_answer(driver.answer, driver)

    @given(world=WORLDS, turn=st.integers(0, 30))
    @_CHECKED
    def test_it_stops_when_it_is_closed(self, case: PolicyCase, world: World, turn: int) -> None:
        """A cancelled job gets no more actions out of it."""
        driver = case.drive(cue=world.cue)
        _Game(case, driver, world).play(most_turns=turn)
        driver.close()

    def test_it_survives_an_outcome_without_any_sample(self, case: PolicyCase) -> None:
        """It returns no text, so that the controller's own fallback decides."""
        driver = case.drive()
        _Game(case, driver, World(replies=(Sampled(),), grants=(0.0,), scores=(None,))).play()
        assert driver.answer == Answer(None)

    def test_it_says_what_it_does_and_what_its_parameters_mean(self, case: PolicyCase) -> None:
        """Help texts are made of this."""
        assert case.spec.summary.endswith("."), "the first line of the docstring is one sentence"
        for name, parameter in case.spec.params_type.model_fields.items():
            assert parameter.description, f"parameter {name!r} has no description"

    def test_it_refuses_a_parameter_it_does_not_have(self, case: PolicyCase) -> None:
        """A misspelt parameter is an error that names it."""
        with pytest.raises(InvalidRequest) as caught:
            case.spec.params({"no_such_parameter": 1})
        assert caught.value.field == "no_such_parameter"


class _Game:
    """Answers a policy's actions as a `World` says."""

    def __init__(self, case: PolicyCase, driver: PolicyDriver, world: World) -> None:
        self._most_turns = 100 + 20 * case.max_samples
        self._driver = driver
        self._replies = itertools.cycle(world.replies)
        self._grants = itertools.cycle(world.grants)
        self._scores = itertools.cycle(world.scores)

    def play(self, *, most_turns: int | None = None, is_broke: bool = False) -> None:
        """Goes on until the policy returns, at most ``most_turns`` actions; broke, nothing can be paid for."""
        for _ in range(self._most_turns if most_turns is None else most_turns):
            if self._driver.is_finished:
                return
            self._turn(is_broke=is_broke)
        assert most_turns is not None, f"the policy has not ended after {self._most_turns} actions"

    def _turn(self, *, is_broke: bool) -> None:
        driver = self._driver
        match driver.action:
            case Expand() | Start() | Score() | Conclude() | Embed() | CallTool() if is_broke:
                driver.throw()
            case Expand() as expand:
                grant = round(next(self._grants) * sum(expand.counts()))
                driver.send(driver.samples(*itertools.islice(self._replies, grant)))
            case Start():
                driver.send(driver.stream())
            case Next(stream):
                is_paid = not is_broke and driver.is_open(stream) and next(self._grants) > 0
                driver.send(driver.sample(next(self._replies)) if is_paid else None)
            case Score(nodes):
                driver.send(ScoreList(tuple(itertools.islice(self._scores, len(nodes)))))
            case Conclude():
                driver.send(driver.sample(next(self._replies)))
            case Compute(function, args):
                driver.send(function(*args))
            case Embed():
                driver.send(driver.embeddings())
            case CallTool() as other:
                raise AssertionError(f"the contract cannot answer {other!r}")
            case _:
                driver.send(None)


def check_answer(answer: Answer, driver: PolicyDriver) -> None:
    """Raises AssertionError if an answer contradicts itself or rests on text that was never delivered."""
    if answer.confidence is not None:
        assert 0 <= answer.confidence <= 1, f"confidence {answer.confidence}"
        assert answer.text is not None or answer.node is not None, "confidence in nothing"
    if answer.node is not None:
        root = answer.node.root
        assert root is driver.query.root or root.answers_query, "the node is no reply to the query"
        stated = {answer.node.answer, answer.node.trajectory if answer.node.answer is None else None}
        assert answer.text in stated, f"{answer.text!r} is not what {answer.node.id} answers"
    shares = [share for _, share in answer.alternatives]
    assert shares == sorted(shares, reverse=True), f"alternatives are not best first: {shares}"
    assert answer.text not in {text for text, _ in answer.alternatives}, "the answer is among its own rivals"


def described(value: Any) -> Any:
    """An action as plain values in which nodes are their ids, so that two runs compare. Any: any part of one."""
    match value:
        case Node():
            return f"node {value.id}"
        case Samples() | ScoreList():
            return [described(part) for part in value]
        case str() | int() | float() | None:
            return value
        case Sequence():
            return [described(part) for part in value]
        case Mapping():
            return {str(key): described(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: described(getattr(value, part.name)) for part in dataclasses.fields(value)}
        return {"type": type(value).__name__, **parts}
    return repr(value)
