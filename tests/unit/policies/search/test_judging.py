"""A model as the judge: what it is asked, what is read of its replies, and what comes of it."""

from typing import Any

import pytest

from orchestrator.actions import Expand
from orchestrator.engine import FinishReason
from orchestrator.errors import ContextOverflow
from orchestrator.policies.search.judging import VALUE, VOTE, SelfJudge, read_verdict, read_vote
from orchestrator.policy import Policy, PolicyContext, Query
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.tree import Node


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        ("Attempt 1 drops a sign.\nBest attempt: 2", 2),
        ("**Best attempt:** 3", 3),
        ("best attempt: \\boxed{2}", 2),
        ("The best attempt is number 3.", 3),
        ("The best choice is 2, as 1 is wrong.", 2),
        ("Best attempt: Attempt 1", 1),
        ("Best attempt: 1. No, wait.\nBest attempt: 2", 2),
        ("All are fine.\n2\n", 2),
        ("(3)", 3),
        ("I think so.\n\n  Attempt 2.  \n", 2),
        ("", None),
        ("well then maybe so here it goes on and round again", None),
        ("Attempt 1 says 7, attempt 2 says 8.", None),
        ("The best of the 3 attempts cannot be told.", None),
        ("Best attempt: none of them", None),
        ("Best attempt: <number>", None),
        ("Best attempt: 0", None),
        ("Best attempt: 4", None),
        ("Best attempt: 123456789012345678901234567890", None),
        ("6 * 7 = 42\nso 42", None),
    ],
)
def test_votes_are_read_where_there_are_any(text: str, vote: int | None):
    assert read_vote(text, num_attempts=3) == vote


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Each step holds.\nVerdict: sure", 1.0),
        ("**Verdict:** Likely.", 0.5),
        ("The verdict is impossible", 0.0),
        ("Verdict: likely\nHm, 7 * 6 is not 41.\nVerdict: impossible", 0.0),
        ("It all holds.\nSure.", 1.0),
        ("`likely`", 0.5),
        ("", None),
        ("I am not sure", None),
        ("Verdict: not sure", None),
        ("Verdict: unlikely", None),
        ("Verdict: <word>", None),
        ("It is likely that this goes on and on and", None),
    ],
)
def test_verdicts_are_read_where_there_are_any(text: str, value: float | None):
    assert read_verdict(text) == value


class Judged:
    """Attempts with these texts, being judged."""

    def __init__(self, method: str, *texts: str, num_votes: int = 3, seed: int = 0) -> None:
        self.scores: Any = None

        def ask(roots: Any, count: int) -> Expand:
            return Expand(roots, count, model="judge", max_tokens=99)

        def probe(query: Query, ctx: PolicyContext[Any]) -> Policy:
            nodes = [Node(f"n{index}", query.root, text=text) for index, text in enumerate(texts)]
            judge = SelfJudge(query, ctx, ask, num_votes)
            self.scores = yield from getattr(judge, method)(nodes)
            yield Expand([query.root])  # so that a policy without any question has an action, too

        self.driver = PolicyDriver(probe, problem="What is {6} times 7?", seed=seed)

    def questions(self) -> list[str]:
        action = self.driver.action
        assert isinstance(action, Expand)
        return [root.messages[0].content for root in action.nodes]

    def reply(self, *texts: str) -> list[float | None]:
        samples = [Sampled(text=text, finish=FinishReason.END) for text in texts]
        self.driver.send(self.driver.samples(*samples))
        return self.scores


class TestVotes:
    def test_each_voter_is_asked_once_in_a_conversation_of_its_own_that_answers_nothing(self):
        judged = Judged("votes", "one", "two", "three")
        action = judged.driver.action
        assert isinstance(action, Expand)
        assert (action.counts(), action.model, action.max_tokens) == ((1, 1, 1), "judge", 99)
        assert not any(root.answers_query for root in action.nodes)

    def test_voters_see_the_problem_and_all_attempts(self):
        [question] = Judged("votes", " one\n\n", "{two}", num_votes=1).questions()
        before, *attempts = question.split("Compare")[0].split("[Attempt ")
        assert before == VOTE.split("{attempts}")[0].format(num=2, problem="What is {6} times 7?")
        assert [attempt[:2] for attempt in attempts] == ["1]", "2]"]
        assert {attempt[2:].strip() for attempt in attempts} == {"one", "{two}"}

    def test_attempts_have_another_order_for_each_voter_and_votes_follow_them(self):
        judged = Judged("votes", "one", "two", "three", num_votes=12)
        firsts = [question.split("[Attempt 1]\n")[1].split("\n")[0] for question in judged.questions()]
        assert set(firsts) == {"one", "two", "three"}
        scores = judged.reply(*["Best attempt: 1"] * 12)
        assert scores == [firsts.count(text) / 12 for text in ("one", "two", "three")]

    def test_babble_does_not_vote(self):
        judged = Judged("votes", "one", "two", num_votes=3)
        number = 1 + ("[Attempt 2]\none" in judged.questions()[1])
        assert judged.reply("well", f"Best attempt: {number}", "Best attempt: 7") == [1.0, 0.0]

    def test_if_nobody_votes_all_scores_are_missing(self):
        assert Judged("votes", "one", "two").reply("well", "then", "maybe") == [None, None]

    def test_votes_that_could_not_be_paid_for_are_missing(self):
        assert sum(filter(None, Judged("votes", "one", "two").reply("Best attempt: 1"))) == 1.0

    def test_a_single_attempt_is_not_voted_on(self):
        judged = Judged("votes", "one")
        assert judged.scores == [None]
        assert judged.questions() == ["What is {6} times 7?"]  # nobody was asked; this is the next action

    def test_what_is_too_long_to_be_compared_has_no_scores(self):
        judged = Judged("votes", "one", "two")
        judged.driver.throw(ContextOverflow(model="judge", prompt_tokens=9, context_length=8))
        assert judged.scores == [None, None]


class TestValues:
    def test_each_attempt_is_judged_by_itself(self):
        judged = Judged("values", "one", "two", num_votes=2)
        assert judged.questions() == [
            VALUE.format(problem="What is {6} times 7?", attempt=text) for text in ("one", "two")
        ]
        assert judged.reply("Verdict: sure", "Verdict: likely", "Verdict: impossible", "hm") == [0.75, 0.0]

    def test_without_a_verdict_the_score_is_missing(self):
        assert Judged("values", "one", "two", num_votes=1).reply("hm", "Verdict: sure") == [None, 1.0]

    def test_what_was_not_paid_for_is_missing(self):
        assert Judged("values", "one", "two", num_votes=1).reply("Verdict: sure") == [1.0, None]
