"""One step at a time: what is bought, what is set aside, what is proposed and concluded."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from orchestrator.actions import Answer, Conclude, Expand, Propose, Release, Score, ScoreList
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted
from orchestrator.monitors import AnswerComplete
from orchestrator.policies.search.params import StepSearchParams
from orchestrator.policies.search.partial import UNKNOWN_REWARD, Partial
from orchestrator.policies.search.stepping import Steps, StepSearch
from orchestrator.policy import Policy, PolicyContext, Query
from orchestrator.sampling import Sampling
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node

Body = Callable[[StepSearch], Steps[Any]]  # Any: what a test wants to look at

STEP = Sampled(text="a step\n\n", finish=FinishReason.STOP, output_tokens=10)
LONG = Sampled(text="and so on", finish=FinishReason.LENGTH, output_tokens=60)
MUTE = Sampled(text="I am lost.", finish=FinishReason.END)


class Probe:
    """A policy made of a test's own calls of a search, driven by hand."""

    def __init__(self, body: Body, *, cue: str = "", **params: Any) -> None:  # Any: parameters of the search
        self.result: Any = None
        settings = StepSearchParams(max_tokens=50, **params)

        def probe(query: Query, ctx: PolicyContext[Any]) -> Policy:
            self.search = StepSearch(query, settings)
            self.result = yield from body(self.search)
            return self.result if isinstance(self.result, Answer) else None

        self.driver = PolicyDriver(probe, cue=cue)

    def run(self, *samples: Sampled | str | None, scores: Sequence[float | None] = ()) -> Any:
        self.driver.run(samples, scores=scores)
        return self.result

    @property
    def kinds(self) -> list[type]:
        return [type(action) for action in self.driver.actions]


def once(num_samples: int) -> Body:
    return lambda search: search.step([search.root], num_samples)


def concluded(num_samples: int) -> Body:
    def body(search: StepSearch) -> Steps[Answer]:
        yield from search.step([search.root], num_samples)
        return (yield from search.conclude())

    return body


class TestStep:
    def test_it_buys_a_step_and_has_it_judged(self):
        probe = Probe(once(2), model="large", verifier="judge", temperature=0.7, max_step_tokens=99, step_delimiter=";")
        root = probe.driver.query.root
        assert probe.driver.action == Expand(
            [root],
            [2],
            model="large",
            max_tokens=99,
            sampling=Sampling(temperature=0.7),
            stop=(";",),
            monitors=(AnswerComplete(),),
        )
        samples = probe.driver.samples(STEP, STEP)
        probe.driver.send(samples)
        assert probe.driver.action == Score(samples.nodes, verifier="judge")

    def test_the_sampling_may_be_left_to_the_job(self):
        probe = Probe(once(1), temperature=None)
        assert isinstance(probe.driver.action, Expand)
        assert probe.driver.action.sampling is None

    def test_it_returns_what_may_go_on_with_its_rewards_in_order(self):
        going_on = Probe(once(3)).run(STEP, "4", STEP, scores=[0.2, 0.9, 0.7])
        assert [partial.rewards for partial in going_on] == [(0.2,), (0.7,)]

    def test_a_trajectory_keeps_the_rewards_of_all_its_steps(self):
        def body(search: StepSearch) -> Steps[list[Partial]]:
            first = yield from search.step([search.root], 2)
            return (yield from search.step(first[::-1], [2, 1]))

        going_on = Probe(body).run(*[STEP] * 5, scores=[0.1, 0.2, 0.3, 0.4, 0.5])
        assert [partial.rewards for partial in going_on] == [(0.2, 0.3), (0.2, 0.4), (0.1, 0.5)]

    def test_a_trajectory_of_which_none_are_wanted_is_not_asked_for(self):
        def body(search: StepSearch) -> Steps[list[Partial]]:
            first = yield from search.step([search.root], 2)
            return (yield from search.step(first, [0, 1]))

        probe = Probe(body)
        going_on = probe.run(*[STEP] * 3, scores=[0.1, 0.2, 0.3])
        assert [partial.rewards for partial in going_on] == [(0.2, 0.3)]
        last = [action for action in probe.driver.actions if isinstance(action, Expand)][-1]
        assert len(last.nodes) == 1

    @pytest.mark.parametrize("body", [once(0), lambda search: search.step([], [])])
    def test_nothing_wanted_is_nothing_asked_for(self, body: Body):
        probe = Probe(body)
        assert (probe.result, probe.driver.actions) == ([], [])

    def test_only_what_was_paid_for_is_judged_and_returned(self):
        probe = Probe(once(4))
        probe.driver.send(probe.driver.samples(STEP))
        probe.driver.send(ScoreList((0.6,)))
        assert [partial.rewards for partial in probe.result] == [(0.6,)]

    def test_without_any_sample_nothing_is_judged(self):
        probe = Probe(once(4))
        probe.driver.send(probe.driver.samples())
        assert (probe.result, probe.kinds) == ([], [Expand])

    def test_a_missing_reward_is_no_evidence(self):
        def body(search: StepSearch) -> Steps[list[Partial]]:
            first = yield from search.step([search.root], 2)
            return (yield from search.step(first, 1))

        going_on = Probe(body).run(*[STEP] * 4, scores=[0.8, None, None, 0.3])
        assert [partial.rewards for partial in going_on] == [(0.8, 0.8), (UNKNOWN_REWARD, 0.3)]

    def test_grown_trajectories_include_those_that_have_ended(self):
        probe = Probe(lambda search: search.grow([search.root], 3))
        grown = probe.run(STEP, "4", LONG, scores=[0.1, 0.2, 0.3])
        assert [partial.reward for partial in grown] == [0.1, 0.2, 0.3]
        assert probe.search.num_ended == 0


class TestHarvest:
    def test_a_trajectory_ends_with_the_models_turn_or_by_its_length(self):
        probe = Probe(once(4))
        going_on = probe.run("4", MUTE, LONG, STEP, scores=[0.1, 0.2, 0.3, 0.4])
        assert [partial.reward for partial in probe.search.finished] == [0.1, 0.2]
        assert [partial.reward for partial in probe.search.given_up] == [0.3]
        assert [partial.reward for partial in going_on] == [0.4]
        assert probe.search.num_ended == 3

    @pytest.mark.parametrize(("detail", "has_finished"), [("answer_complete", True), ("repetition", False)])
    def test_a_trajectory_that_a_monitor_cut_has_finished_if_its_answer_stands(self, detail: str, has_finished: bool):
        def body(search: StepSearch) -> Steps[list[Partial]]:
            node = Node("n", parent=search.root.node, finish=FinishReason.MONITOR, finish_detail=detail)
            return (yield from search.harvest([Partial(node, (0.5,))]))

        probe = Probe(body)
        assert (len(probe.search.finished), len(probe.result)) == (has_finished, not has_finished)

    def test_length_is_counted_over_all_steps(self):
        def body(search: StepSearch) -> Steps[None]:
            frontier = [search.root]
            for _ in range(5):
                frontier = yield from search.step(frontier, 1)

        probe = Probe(body)
        probe.run(*[STEP] * 5, scores=[0.5] * 5)
        assert [len(partial.rewards) for partial in probe.search.given_up] == [5]  # 5 steps of 10 tokens

    def test_what_ends_with_its_last_token_has_finished(self):
        probe = Probe(once(1))
        probe.run(Sampled(answer="4", output_tokens=50), scores=[0.5])
        assert len(probe.search.finished) == 1

    def test_the_first_answer_is_proposed_at_once(self):
        probe = Probe(once(2))
        probe.run(STEP, "4", scores=[0.1, 0.9])
        assert probe.kinds == [Expand, Score, Propose]
        (proposal,) = probe.driver.proposals
        assert (proposal.text, proposal.confidence, proposal.confidence_kind) == ("4", 0.9, "verifier")

    def test_without_an_answer_nothing_is_proposed(self):
        probe = Probe(once(3))
        probe.run(STEP, MUTE, LONG, scores=[0.1, 0.9, 0.5])
        assert probe.driver.proposals == []

    def test_news_is_proposed_and_the_same_again_is_not(self):
        def body(search: StepSearch) -> Steps[None]:
            for _ in range(4):
                yield from search.step([search.root], 1)

        probe = Probe(body)
        probe.run("4", "4", STEP, "5", scores=[0.5, 0.4, 0.9, 0.95])
        assert [proposal.text for proposal in probe.driver.proposals] == ["4", "5"]


class TestKeeping:
    def test_all_but_some_is_let_go_with_the_reason(self):
        def body(search: StepSearch) -> Steps[None]:
            going_on = yield from search.step([search.root], 2)
            yield from search.keep(going_on[1:], "too bad")

        probe = Probe(body)
        probe.run(STEP, STEP, scores=[0.1, 0.2])
        release = probe.driver.actions[-1]
        assert isinstance(release, Release)
        assert release.reason == "too bad"
        assert [node.id[-2:] for node in release.all_but] == [".2"]


class TestChoice:
    @pytest.mark.parametrize(
        ("selection", "text", "confidence", "kind"),
        [
            ("best", "5", 0.7, "verifier"),
            ("weighted_majority", "4", 0.6, "verifier"),
            ("majority", "4", 0.6875, "majority_posterior"),
        ],
    )
    def test_finished_trajectories_are_chosen_from_as_told(
        self, selection: str, text: str, confidence: float, kind: str
    ):
        answer = Probe(concluded(4), selection=selection).run("4", "5", "4", STEP, scores=[0.3, 0.7, 0.6, 0.99])
        assert (answer.text, answer.confidence_kind) == (text, kind)
        assert answer.confidence == pytest.approx(confidence)

    def test_a_trajectorys_score_is_put_together_as_told(self):
        def body(search: StepSearch) -> Steps[Answer]:
            first = yield from search.step([search.root], 2)
            yield from search.step(first, 1)
            return (yield from search.conclude())

        answer = Probe(body, aggregation="min", selection="best").run(STEP, STEP, "4", "5", scores=[0.2, 0.6, 0.9, 0.5])
        assert (answer.text, answer.confidence) == ("5", 0.5)

    @pytest.mark.parametrize("selection", ["best", "weighted_majority"])
    def test_without_any_reward_the_majority_decides_and_nothing_is_claimed(self, selection: str):
        answer = Probe(concluded(3), selection=selection).run("4", "5", "5", scores=[None, None, None])
        assert (answer.text, answer.confidence) == ("5", None)

    def test_one_reward_anywhere_is_enough_to_decide_by_rewards(self):
        answer = Probe(concluded(3), selection="best").run("4", "5", "5", scores=[0.6, None, None])
        assert (answer.text, answer.confidence) == ("4", 0.6)


class TestConclusion:
    def test_a_stated_answer_needs_none(self):
        probe = Probe(concluded(2), cue="So: ")
        assert probe.run("4", STEP, scores=[0.1, 0.9]).text == "4"
        assert Conclude not in probe.kinds

    def test_a_search_that_bought_nothing_has_nothing(self):
        probe = Probe(lambda search: search.conclude(), cue="So: ")
        assert (probe.result, probe.driver.actions) == (Answer(None), [])

    def test_the_best_finished_text_without_an_answer_is_concluded(self):
        probe = Probe(concluded(3), cue="So: ")
        answer = probe.run(Sampled(text="Hm."), Sampled(text="Aha."), STEP, "4", scores=[0.1, 0.8, 0.9])
        assert (answer.text, answer.confidence) == ("4", None)
        assert answer.node.trajectory.startswith("Aha.So: ")

    def test_else_the_best_of_what_was_still_open_or_too_long_is_concluded(self):
        for scores, tokens in [([0.1, 0.8, 0.2], 60), ([0.1, 0.2, 0.8], 10)]:
            probe = Probe(concluded(3), cue="So: ")
            answer = probe.run(STEP, LONG, STEP, "4", scores=scores)
            assert answer.text == "4"
            assert answer.node.parent.output_tokens == tokens

    def test_of_open_trajectories_the_newest_are_concluded(self):
        def body(search: StepSearch) -> Steps[Answer]:
            first = yield from search.step([search.root], 2)
            yield from search.step(first[:1], 1)
            return (yield from search.conclude())

        answer = Probe(body, cue="So: ").run(STEP, STEP, STEP, "4", scores=[0.1, 0.9, 0.2])
        assert answer.node.depth == 3

    def test_a_conclusion_that_states_nothing_leaves_a_finished_text_as_the_answer(self):
        answer = Probe(concluded(2), cue="So: ").run(MUTE, STEP, None, scores=[0.3, 0.9])
        assert (answer.text, answer.confidence, answer.confidence_kind) == ("I am lost.", 0.3, "verifier")

    def test_without_a_cue_a_finished_text_is_the_answer(self):
        answer = Probe(concluded(2)).run(MUTE, STEP, scores=[None, None])
        assert (answer.text, answer.confidence) == ("I am lost.", None)

    @pytest.mark.parametrize(("cue", "samples"), [("", (STEP,)), ("So: ", (STEP, None))])
    def test_an_unfinished_text_is_no_answer_but_says_where_to_look(
        self, cue: str, samples: tuple[Sampled | None, ...]
    ):
        answer = Probe(concluded(1), cue=cue).run(*samples, scores=[0.9])
        assert answer.text is None
        assert answer.node.text == STEP.text

    @pytest.mark.parametrize("sample", [STEP, MUTE])
    def test_a_conclusion_that_cannot_be_paid_for_is_left_to_the_controller(self, sample: Sampled):
        answer = Probe(concluded(1), cue="So: ").run(sample, scores=[0.9])
        assert answer.text is None
        assert answer.node.text == sample.text


def stopped(probe: Probe) -> None:
    """The pending action cannot be paid for, and neither can anything after it."""
    driver = probe.driver
    try:
        driver.throw()
        while not driver.is_finished:
            driver.throw() if isinstance(driver.action, Expand | Score | Conclude) else driver.send()
    except BudgetExhausted:
        return
    raise AssertionError("the error did not come through")


class TestExhaustedBudget:
    """It ends the search by its error, and nothing that was bought is lost."""

    def test_before_the_first_sample_there_is_nothing_to_save(self):
        probe = Probe(concluded(2), cue="So: ")
        stopped(probe)
        assert probe.kinds == [Expand]

    def test_the_answer_that_was_proposed_stands(self):
        def body(search: StepSearch) -> Steps[None]:
            going_on = yield from search.step([search.root], 2)
            yield from search.step(going_on, 1)

        probe = Probe(body, cue="So: ")
        probe.driver.send(probe.driver.samples("4", STEP))
        probe.driver.send(ScoreList((0.9, 0.8)))
        probe.driver.send()
        stopped(probe)
        assert probe.kinds == [Expand, Score, Propose, Expand]
        assert probe.driver.proposals[-1].text == "4"

    def test_without_an_answer_the_best_open_trajectory_is_concluded_and_proposed(self):
        def body(search: StepSearch) -> Steps[None]:
            going_on = yield from search.step([search.root], 2)
            yield from search.step(going_on, 1)

        probe = Probe(body, cue="So: ")
        first = probe.driver.samples(STEP, STEP)
        probe.driver.send(first)
        probe.driver.send(ScoreList((0.2, 0.8)))
        probe.driver.throw()
        assert probe.driver.action == Conclude(first[1])
        probe.driver.send(probe.driver.sample("4"))
        assert probe.driver.proposals[-1].text == "4"
        with pytest.raises(BudgetExhausted):
            probe.driver.send()

    def test_steps_that_cannot_be_judged_still_count(self):
        probe = Probe(concluded(3), cue="So: ")
        probe.driver.send(probe.driver.samples("4", "5", "5"))
        probe.driver.throw()
        assert isinstance(probe.driver.action, Propose)
        assert (probe.driver.action.answer.text, probe.driver.action.answer.confidence) == ("5", None)
        with pytest.raises(BudgetExhausted):
            probe.driver.send()
        assert len(probe.search.finished) == 3

    def test_if_not_even_a_conclusion_can_be_paid_for_nothing_is_proposed(self):
        probe = Probe(concluded(1), cue="So: ")
        probe.driver.send(probe.driver.samples(STEP))
        stopped(probe)
        assert probe.kinds == [Expand, Score, Conclude]
