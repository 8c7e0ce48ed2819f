"""Policies that decide from the answers so far whether to go on: adaptive consistency, early stopping, cascade."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.actions import Expand, Snapshot
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted, InvalidRequest
from orchestrator.policies import adaptive_consistency, cascade, early_stopping, expected_samples
from orchestrator.policies.voting import dirichlet_leader_probability, leader_probability
from orchestrator.testing import PolicyDriver, Sampled


class TestAdaptiveConsistency:
    def drawn(self, answers: list[str | None], **params: object) -> int:
        driver = PolicyDriver(adaptive_consistency, params=params)
        driver.run(itertools.cycle(answers))
        return driver.num_delivered

    def test_it_needs_four_samples_that_agree_to_be_sure_at_95_percent(self):
        assert self.drawn(["1"]) == 4

    @pytest.mark.parametrize(("confidence", "expected"), [(0.9, 3), (0.9375, 3), (0.94, 4), (0.98, 5), (0.5, 1)])
    def test_it_stops_at_the_confidence_it_is_given(self, confidence: float, expected: int):
        assert self.drawn(["1"], confidence=confidence) == expected

    def test_the_target_of_the_job_goes_before_its_own(self):
        driver = PolicyDriver(adaptive_consistency, params={"confidence": 0.99}, target_confidence=0.9)
        answer = driver.run(itertools.cycle(["1"]))
        assert (driver.num_delivered, answer.confidence) == (3, 0.9375)

    def test_it_goes_on_while_the_answers_disagree(self):
        driver = PolicyDriver(adaptive_consistency, params={"max_samples": 20})
        answer = driver.run(["1", "2", "1", "1", "1", "1", "1", "1"])
        assert driver.num_delivered == 7  # (6, 1) is the first to reach 0.95
        assert answer.confidence == leader_probability(6, 1)

    def test_it_stops_at_its_cap(self):
        driver = PolicyDriver(adaptive_consistency, params={"max_samples": 7})
        answer = driver.run(itertools.cycle(["1", "2"]))
        assert driver.num_delivered == 7
        assert (answer.text, answer.confidence) == ("1", leader_probability(4, 3))

    def test_it_draws_at_least_the_samples_it_is_told_to(self):
        assert self.drawn(["1"], min_samples=9) == 9

    def test_samples_without_an_answer_count_as_drawn_but_not_as_votes(self):
        assert self.drawn([None, "1"]) == 8

    def test_it_returns_what_it_has_when_no_more_can_be_paid_for(self):
        answer = PolicyDriver(adaptive_consistency).run(["1", "2", "2"])
        assert (answer.text, answer.confidence) == ("2", leader_probability(2, 1))

    def test_it_proposes_the_leader_whenever_it_changes(self):
        driver = PolicyDriver(adaptive_consistency, params={"max_samples": 6, "parallel": 1})
        driver.run(["1", "2", "2", "1", "1", "3"])
        assert [proposal.text for proposal in driver.proposals] == ["1", "2", "1"]

    @pytest.mark.parametrize("parallel", [1, 3, 8, 64])
    @given(answers=st.lists(st.sampled_from(["1", "1", "1", "2", "3", None]), min_size=40, max_size=40))
    def test_it_draws_the_samples_of_the_one_at_a_time_rule_and_none_more(
        self, answers: list[str | None], parallel: int
    ):
        votes: Counter[str] = Counter()
        expected = 0
        for expected, answer in enumerate(answers, start=1):  # noqa: B007  # its last value is the result
            votes.update([answer] if answer else [])
            first, second = [*(count for _, count in votes.most_common(2)), 0, 0][:2]
            if leader_probability(first, second) >= 0.95:
                break
        driver = PolicyDriver(adaptive_consistency, params={"parallel": parallel})
        driver.run(answers)
        assert driver.num_delivered == expected

    def test_it_has_no_more_samples_in_flight_than_it_is_told_to(self):
        driver = PolicyDriver(adaptive_consistency, params={"parallel": 3, "max_samples": 5})
        driver.run(itertools.cycle(["1", "2"]))
        assert [action.counts() for action in driver.actions if isinstance(action, Expand)] == [(3,), (2,)]

    def test_the_dirichlet_rule_minds_all_rivals(self):
        answers = ["2", "3", "4", "5", *["1"] * 20]
        beta = PolicyDriver(adaptive_consistency)
        dirichlet = PolicyDriver(adaptive_consistency, params={"rule": "dirichlet"})
        assert beta.run(answers).confidence == leader_probability(beta.num_delivered - 4, 1)
        confidence = dirichlet.run(answers).confidence
        assert confidence == dirichlet_leader_probability(dirichlet.num_delivered - 4, [1] * 4)
        assert confidence is not None
        assert confidence >= 0.95
        assert dirichlet_leader_probability(dirichlet.num_delivered - 5, [1] * 4) < 0.95
        assert dirichlet.num_delivered > beta.num_delivered

    def test_contradicting_parameters_are_refused(self):
        with pytest.raises(InvalidRequest, match="min_samples=50 is more than max_samples=40"):
            PolicyDriver(adaptive_consistency, params={"min_samples": 50})


class TestEarlyStopping:
    def test_it_stops_at_the_first_window_that_agrees(self):
        driver = PolicyDriver(early_stopping)
        answer = driver.run(["1", "1", "2", "1", "1", *["1"] * 5])
        assert (driver.num_delivered, answer.text) == (10, "1")
        assert answer.confidence == leader_probability(9, 1)

    def test_it_takes_the_majority_of_all_windows_at_its_cap(self):
        driver = PolicyDriver(early_stopping, params={"window": 3, "max_samples": 6})
        answer = driver.run(["1", "2", "2", "2", "1", "2"])
        assert (driver.num_delivered, answer.text, answer.confidence) == (6, "2", leader_probability(4, 2))

    def test_a_sample_without_an_answer_spoils_its_window(self):
        driver = PolicyDriver(early_stopping, params={"window": 2, "max_samples": 6})
        driver.run(["1", None, None, None, "1", "1"])
        assert driver.num_delivered == 6

    def test_the_unanimous_window_wins_over_earlier_ones(self):
        driver = PolicyDriver(early_stopping, params={"window": 3, "max_samples": 9})
        answer = driver.run(["1", "1", "3", "1", "1", "2", "2", "2", "2"])
        assert (answer.text, answer.confidence) == ("2", leader_probability(4, 4))

    def test_the_last_window_may_be_smaller_and_does_not_count_as_unanimous(self):
        driver = PolicyDriver(early_stopping, params={"window": 4, "max_samples": 6})
        answer = driver.run(["1", "2", "1", "2", "2", "2"])
        assert (driver.num_delivered, answer.text, answer.confidence) == (6, "2", leader_probability(4, 2))

    def test_a_window_that_the_budget_cuts_short_is_the_last(self):
        driver = PolicyDriver(early_stopping)
        driver.send(driver.samples("1", "1"))
        driver.send()
        assert (driver.answer.text, driver.answer.confidence) == ("1", leader_probability(2, 0))

    @pytest.mark.parametrize(("probabilities", "expected"), [((0.9, 0.1), 8.46), ((0.6, 0.3, 0.1), 30.4)])
    def test_the_expected_number_of_samples_has_the_worked_numbers(
        self, probabilities: tuple[float, ...], expected: float
    ):
        assert expected_samples(probabilities, window=5, max_samples=40) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("probabilities", [(0.9, 0.1), (0.6, 0.3), (0.75, 0.15, 0.1)])
    def test_the_papers_sum_is_the_geometric_one(self, probabilities: tuple[float, ...]):
        window, windows = 5, 8
        agree = sum(probability**window for probability in probabilities)
        papers = window * (
            sum(agree * (1 - agree) ** index * (index + 1) for index in range(windows - 1))
            + (1 - agree) ** (windows - 1) * windows
        )
        assert expected_samples(probabilities, window=window, max_samples=40) == pytest.approx(papers, rel=1e-12)

    def test_the_expected_number_of_samples_needs_whole_windows(self):
        with pytest.raises(ValueError, match="multiple of window=5"):
            expected_samples((1.0,), window=5, max_samples=42)

    @pytest.mark.parametrize("probabilities", [(0.9, 0.1), (0.6, 0.3, 0.1)])
    def test_it_draws_the_expected_number_of_samples_on_average(self, probabilities: tuple[float, ...]):
        """z-test on the mean of 1,500 runs, rejected beyond 4.5 standard errors (a false alarm in 150,000 runs)."""
        rng = np.random.default_rng(11)
        names = [str(place) for place in range(len(probabilities))]

        def drawing() -> Iterator[str]:
            while True:
                yield from map(str, rng.choice(names, size=40, p=probabilities))

        drawn = []
        for _ in range(1500):
            driver = PolicyDriver(early_stopping)
            driver.run(drawing())
            drawn.append(driver.num_delivered)
        expected = expected_samples(probabilities)
        assert abs(np.mean(drawn) - expected) < 4.5 * np.std(drawn) / math.sqrt(len(drawn))


class TestCascade:
    def models(self, driver: PolicyDriver) -> list[str]:
        return [action.model for action in driver.actions if isinstance(action, Expand)]

    def test_it_accepts_the_small_model_when_it_agrees_with_itself(self):
        driver = PolicyDriver(cascade)
        answer = driver.run(["1", "1", "1"])
        assert self.models(driver) == ["small"]
        assert (answer.text, answer.confidence) == ("1", 0.9375)

    def test_it_asks_the_small_model_again_while_it_may_still_convince(self):
        driver = PolicyDriver(cascade)
        answer = driver.run(["1", "2", "1", "1", "1", "1"])
        assert self.models(driver) == ["small", "small"]
        assert (answer.text, answer.confidence) == ("1", leader_probability(5, 1))

    def test_it_gives_up_on_the_small_model_once_it_cannot_convince_any_more(self):
        driver = PolicyDriver(cascade)
        answer = driver.run(["1", "2", "3", "4"])  # three more for "1" would make (4, 1): 0.89
        assert self.models(driver) == ["small", "large"]
        assert (answer.text, answer.confidence) == ("4", leader_probability(5, 1))

    def test_it_escalates_when_all_small_samples_leave_a_doubt(self):
        driver = PolicyDriver(cascade)
        answer = driver.run(["1", "1", "2", "1", "2", "1", "2"])
        assert self.models(driver) == ["small", "small", "large"]
        assert (answer.text, answer.confidence) == ("2", leader_probability(7, 4))

    def test_one_sample_of_the_large_model_is_greedy_and_several_are_not(self):
        driver = PolicyDriver(cascade, params={"n_small": 1})
        driver.send(driver.samples("1"))
        driver.send()
        assert isinstance(driver.action, Expand)
        assert driver.action.sampling is not None
        assert driver.action.sampling.is_greedy
        driver = PolicyDriver(cascade, params={"n_small": 1, "n_large": 3})
        driver.send(driver.samples("1"))
        driver.send()
        assert isinstance(driver.action, Expand)
        assert driver.action.sampling is not None
        assert not driver.action.sampling.is_greedy

    def test_the_small_votes_add_to_the_large_ones(self):
        driver = PolicyDriver(cascade, params={"n_small": 3, "n_large": 2, "large_weight": 2})
        answer = driver.run(["1", "1", "2", "3", "2"])
        assert (answer.text, answer.confidence) == ("2", leader_probability(3, 2))

    def test_the_small_models_best_stands_if_the_large_one_cannot_be_paid_for(self):
        driver = PolicyDriver(cascade, params={"n_small": 3})
        driver.send(driver.samples("1", "2", "2"))
        driver.send()
        driver.throw()
        assert (driver.answer.text, driver.answer.confidence) == ("2", leader_probability(2, 1))

    def test_it_does_not_escalate_when_too_little_is_left_for_any_reply(self):
        driver = PolicyDriver(cascade, params={"n_small": 3})
        snapshot = Snapshot(remaining={"output_tokens": 9})
        driver.send(driver.samples("1", "2", "2", snapshot=snapshot))
        driver.send()
        assert driver.answer.text == "2"

    def test_it_escalates_when_the_small_model_has_no_answer(self):
        driver = PolicyDriver(cascade, params={"n_small": 3})
        assert driver.run([None, None, None, "7"]).text == "7"

    def test_the_large_models_silence_leaves_the_small_models_best(self):
        driver = PolicyDriver(cascade, params={"n_small": 3})
        cut = Sampled(finish=FinishReason.LENGTH)
        assert driver.run(["1", "2", "2", cut]).text == "2"

    def test_the_target_of_the_job_goes_before_its_threshold(self):
        driver = PolicyDriver(cascade, params={"threshold": 0.5}, target_confidence=0.98)
        driver.run(["1"] * 6)
        assert driver.num_delivered == 6  # five agree at 0.984; they come in threes

    def test_an_error_at_the_first_samples_is_not_swallowed(self):
        with pytest.raises(BudgetExhausted):
            PolicyDriver(cascade).throw()
