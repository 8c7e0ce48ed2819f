from orchestrator.engine import Message, Prompt
from orchestrator.verifier import Candidate
from orchestrator.verifiers.majority import Majority


def candidate(answer: str | None) -> Candidate:
    prompt = Prompt((Message("user", "p"),))
    return Candidate(problem="p", text="t", answer=answer, answer_class=answer, is_final=True, prompt=prompt)


async def test_a_score_is_the_share_of_the_votes_and_candidates_without_an_answer_have_none():
    candidates = [candidate(answer) for answer in ("5", "6", "5", None, "5")]
    assert await Majority().score(candidates, None) == [0.75, 0.25, 0.75, None, 0.75]  # type: ignore[arg-type]


async def test_without_any_answer_all_scores_are_missing():
    assert await Majority().score([candidate(None)] * 2, None) == [None, None]  # type: ignore[arg-type]
    assert await Majority().score([], None) == []  # type: ignore[arg-type]
