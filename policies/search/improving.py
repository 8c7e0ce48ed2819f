"""What a model is told that is to improve an earlier solution."""

from __future__ import annotations

from orchestrator.engine import Message
from orchestrator.policies.search.branching import Attempt
from orchestrator.policy import Query

MOST_SHOWN_CHARS = 12_000
"""Of an earlier solution; its end is shown, where the answer is."""

REQUEST = """\
{verdict} Check it step by step: look for mistakes, for conditions of the problem that it misses, and for steps that \
do not follow. Then write a complete new solution that is better and can be read without the previous one. If you \
find nothing wrong, solve the problem in a different way. State the final answer in the form that was asked for."""


def improving(query: Query, attempt: Attempt) -> tuple[Message, ...]:
    """The query's conversation, an attempt as the reply to it, and what its score says about it."""
    assert attempt.node is not None, "the top of the tree is no solution"
    shown = attempt.node.trajectory[-MOST_SHOWN_CHARS:]
    request = REQUEST.format(verdict=_verdict(attempt.score, states_answer=attempt.node.answer is not None))
    return (*query.root.messages, Message("assistant", shown), Message("user", request))


def _verdict(score: float | None, *, states_answer: bool) -> str:
    verdict = "It is not known how good this solution is."
    if score is not None:
        verdict = f"A check that may be wrong gave this solution a score of {score:.2f} on a scale from 0 to 1."
    return verdict if states_answer else f"{verdict} It states no final answer in the form that was asked for."
