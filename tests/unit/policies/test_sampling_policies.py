"""Policies that draw whole samples of one model: single, best-of-n and self-consistency."""

import pytest

from orchestrator.actions import Answer, Commit, Conclude, Expand, Propose, Score, ScoreList
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted, InvalidRequest
from orchestrator.policies import best_of_n, self_consistency, single
from orchestrator.policies.voting import leader_probability
from orchestrator.testing import PolicyDriver, Sampled

CUT = Sampled(finish=FinishReason.LENGTH)


class TestSingle:
    def test_it_commits_to_its_only_sample_before_it_is_drawn(self):
        driver = PolicyDriver(single)
        assert driver.action == Commit(driver.query.root)
        driver.send()
        assert isinstance(driver.action, Expand)
        assert driver.action.sampling is not None
        assert driver.action.sampling.is_greedy
        driver.send(driver.samples("42"))
        assert driver.answer.text == "42"
        assert driver.answer.confidence is None

    def test_it_leaves_the_sampling_to_the_job_when_told_to(self):
        driver = PolicyDriver(single, params={"temperature": None, "max_tokens": 9, "model": "large"})
        driver.send()
        assert driver.action == Expand([driver.query.root], 1, model="large", max_tokens=9, sampling=None)

    @pytest.mark.parametrize("sample", [CUT, None, Sampled(answer="4", finish=FinishReason.LENGTH)])
    def test_it_concludes_a_sample_that_was_cut_or_has_no_answer(self, sample: Sampled | None):
        driver = PolicyDriver(single)
        assert driver.run([sample, "42"]).text == "42"
        assert [type(action) for action in driver.actions] == [Commit, Expand, Conclude]

    def test_it_concludes_nothing_without_a_cue(self):
        driver = PolicyDriver(single, cue="")
        assert driver.run([CUT]).text is None
        assert driver.answer.node is not None

    def test_it_keeps_what_a_cut_sample_says_if_the_conclusion_fails(self):
        stated = Sampled(answer="4", finish=FinishReason.LENGTH)
        assert PolicyDriver(single).run([stated, None]).text == "4"
        assert PolicyDriver(single).run([stated]).text == "4"  # the conclusion cannot be paid for


class TestBestOfN:
    def test_it_returns_the_best_scored_sample(self):
        answer = PolicyDriver(best_of_n, params={"n": 3}).run(["1", "2", "1"], scores=[0.2, 0.9, 0.3])
        assert (answer.text, answer.confidence, answer.confidence_kind) == ("2", 0.9, "verifier")
        assert answer.alternatives == (("1", 0.3),)

    def test_weighted_it_returns_the_answer_with_the_largest_sum_of_scores(self):
        driver = PolicyDriver(best_of_n, params={"n": 4, "weighted": True})
        answer = driver.run(["1", "2", "1", "3"], scores=[0.4, 0.6, 0.5, None])
        assert (answer.text, answer.confidence) == ("1", 0.5)
        assert answer.node is not None
        assert answer.node.id.endswith(".3")
        assert answer.alternatives == (("2", pytest.approx(0.4)),)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_a_missing_score_is_not_zero(self, weighted: bool):
        driver = PolicyDriver(best_of_n, params={"n": 2, "weighted": weighted})
        assert driver.run(["1", "2"], scores=[None, 0.0]).text == "2"

    def test_without_any_score_the_majority_decides_and_nothing_is_claimed(self):
        answer = PolicyDriver(best_of_n, params={"n": 3}).run(["1", "2", "2"], scores=[])
        assert (answer.text, answer.confidence) == ("2", None)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_a_sample_without_an_answer_loses_to_any_that_has_one(self, weighted: bool):
        driver = PolicyDriver(best_of_n, params={"n": 2, "weighted": weighted})
        assert driver.run([None, "2"], scores=[0.9, 0.1]).text == "2"

    @pytest.mark.parametrize("weighted", [False, True])
    def test_without_any_answer_the_best_scored_text_is_the_answer(self, weighted: bool):
        driver = PolicyDriver(best_of_n, params={"n": 3, "weighted": weighted}, cue="")
        answer = driver.run([None, Sampled(text="A poem."), None], scores=[0.1, 0.8, None])
        assert (answer.text, answer.confidence) == ("A poem.", 0.8)
        assert driver.proposals == []

    def test_without_any_answer_the_best_scored_sample_is_concluded_where_there_is_a_cue(self):
        driver = PolicyDriver(best_of_n, params={"n": 2})
        answer = driver.run([None, Sampled(text="Well"), "42"], scores=[0.1, 0.8])
        assert (answer.text, answer.confidence) == ("42", None)
        assert answer.node is not None
        assert answer.node.trajectory.startswith("Well\nThe answer is ")

    def test_an_answer_without_a_score_goes_before_a_scored_text_without_an_answer(self):
        answer = PolicyDriver(best_of_n, params={"n": 2}).run([None, "2"], scores=[0.9, None])
        assert (answer.text, answer.confidence) == ("2", None)

    def test_equal_scores_go_to_the_first_sample(self):
        assert PolicyDriver(best_of_n, params={"n": 2}).run(["1", "2"], scores=[0.5, 0.5]).text == "1"

    def test_the_majority_stands_if_the_verifier_cannot_be_paid_for(self):
        driver = PolicyDriver(best_of_n, params={"n": 3, "verifier": "exact"})
        driver.send(driver.samples("1", "2", "2"))
        assert isinstance(driver.action, Propose)
        assert driver.action.answer.text == "2"
        driver.send()
        assert isinstance(driver.action, Score)
        assert driver.action.verifier == "exact"
        with pytest.raises(BudgetExhausted):
            driver.throw()

    def test_only_what_was_paid_for_is_scored(self):
        driver = PolicyDriver(best_of_n, params={"n": 8})
        driver.send(driver.samples("1", "2"))
        driver.send()
        driver.send(ScoreList((0.1, 0.2)))
        assert driver.answer.text == "2"


class TestSelfConsistency:
    def test_it_returns_the_majority_and_how_sure_it_is(self):
        answer = PolicyDriver(self_consistency, params={"n": 5}).run(["1", "2", None, "2", "2"])
        assert (answer.text, answer.confidence_kind) == ("2", "majority_posterior")
        assert answer.confidence == leader_probability(3, 1)

    def test_it_asks_for_everything_at_once(self):
        driver = PolicyDriver(self_consistency)
        assert isinstance(driver.action, Expand)
        assert driver.action.counts() == (8,)
        assert driver.action.num_logprobs == 0

    def test_it_asks_for_log_probabilities_only_to_break_ties(self):
        driver = PolicyDriver(self_consistency, params={"n": 2, "ties": "logprob"})
        assert isinstance(driver.action, Expand)
        assert driver.action.num_logprobs == 1
        assert driver.run([Sampled(answer="1", logprob=-9.0), Sampled(answer="2", logprob=-1.0)]).text == "2"

    def test_it_proposes_what_it_returns(self):
        driver = PolicyDriver(self_consistency, params={"n": 2})
        assert driver.run(["1", "1"]) == driver.proposals[-1]

    def test_no_samples_give_no_answer(self):
        driver = PolicyDriver(self_consistency)
        driver.send(driver.samples())
        assert driver.answer == Answer(None)

    def test_a_parameter_out_of_range_is_refused_by_name(self):
        with pytest.raises(InvalidRequest, match="'self_consistency': n=0 is not valid") as caught:
            PolicyDriver(self_consistency, params={"n": 0})
        assert (caught.value.field, caught.value.fields()["value"]) == ("n", 0)
