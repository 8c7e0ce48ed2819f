"""Chooses an answer among scored samples: the best sample's, or the one with the largest sum of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.actions import Answer
from orchestrator.policies.voting import Votes
from orchestrator.tree import Node


class Scored(NamedTuple):
    """A finished trajectory and its score in [0, 1]."""

    node: Node
    score: float


def best(scored: Sequence[Scored]) -> Answer:
    """The best-scored answer; each other answer is an alternative with its best score.

    Args:
        scored: At least one, all with an answer; equals stay in order.
    """
    first: dict[str, Scored] = {}
    for item in sorted(scored, key=lambda item: item.score, reverse=True):
        first.setdefault(item.node.answer_class or "", item)
    winner, *rivals = first.values()
    return Answer(
        winner.node.answer,
        winner.node,
        confidence=winner.score,
        confidence_kind="verifier",
        alternatives=tuple((rival.node.answer or "", rival.score) for rival in rivals),
    )


def weighted_majority(scored: Sequence[Scored]) -> Answer:
    """The answer with the largest sum of scores; confidence is the score of its best sample.

    Best-of-n weighted in Snell et al., 2024 (arXiv:2408.03314), after Li et al., 2023 (arXiv:2206.02336).

    Args:
        scored: At least one, all with an answer.
    """
    votes = Votes()
    for node, score in scored:
        votes.add(node, score)
    winner = votes.answer().node
    return votes.answer(confidence=next(item.score for item in scored if item.node is winner), kind="verifier")
