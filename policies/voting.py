"""Votes of samples for classes of equal answers, and how sure a vote is.

What the policies of the self-consistency family share. Samples without an answer have no vote, and are kept only to
fall back on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from orchestrator.actions import Answer, ConfidenceKind
from orchestrator.engine import FinishReason
from orchestrator.tree import Node

TieRule = Literal["first", "logprob"]
"""Between classes of equal weight: the one seen first, or the one whose samples have the highest mean log
probability per token (then the one seen first)."""


class _Ballot(NamedTuple):
    node: Node
    weight: float


class Votes:
    """Weighted votes, in the order in which they came.

    Args:
        nodes: Samples that vote with weight 1 at once.
        ties: Who leads among equals.
    """

    def __init__(self, nodes: Iterable[Node] = (), *, ties: TieRule = "first") -> None:
        self._ties = ties
        self._ballots: dict[str, list[_Ballot]] = {}
        self._silent: list[Node] = []
        for node in nodes:
            self.add(node)

    def add(self, node: Node, weight: float = 1.0) -> None:
        """Counts a sample for its answer's class; one without an answer is only kept to fall back on."""
        if node.answer_class is None:
            self._silent.append(node)
        else:
            self._ballots.setdefault(node.answer_class, []).append(_Ballot(node, weight))

    @property
    def num_votes(self) -> int:
        """Samples that voted."""
        return sum(map(len, self._ballots.values()))

    @property
    def num_samples(self) -> int:
        """Samples added, with and without a vote."""
        return self.num_votes + len(self._silent)

    def ranking(self) -> list[tuple[str, float]]:
        """Classes with their weights, best first."""
        weights = [(name, math.fsum(ballot.weight for ballot in cast)) for name, cast in self._ballots.items()]
        return sorted(weights, key=lambda item: (item[1], self._tie_key(item[0])), reverse=True)  # stable

    @property
    def leader(self) -> str | None:
        """The class that leads; None without a vote."""
        ranking = self.ranking()
        return ranking[0][0] if ranking else None

    @property
    def top_two(self) -> tuple[float, float]:
        """Weights of the leader and of its closest rival; 0 where there is none."""
        first, second, *_ = [*(weight for _, weight in self.ranking()), 0.0, 0.0]
        return first, second

    def weight(self, name: str) -> float:
        """Weight of one class."""
        return math.fsum(ballot.weight for ballot in self._ballots.get(name, ()))

    def share(self, name: str) -> float:
        """Its part of all votes, in [0, 1]; 0 where nothing has any weight."""
        total = math.fsum(weight for _, weight in self.ranking())
        return self.weight(name) / total if total else 0.0

    def majority_posterior(self, name: str | None = None) -> float | None:
        """Probability that a class (the leader unless named) beats its closest rival; None without a vote.

        Weights must be whole numbers, see `leader_probability`.
        """
        name = self.leader if name is None else name
        if name is None:
            return None
        rival = max((weight for other, weight in self.ranking() if other != name), default=0.0)
        return leader_probability(_whole(self.weight(name)), _whole(rival))

    def dirichlet_posterior(self) -> float | None:
        """Probability that the leader is the likeliest of all classes seen; None without a vote."""
        weights = [_whole(weight) for _, weight in self.ranking()]
        return dirichlet_leader_probability(weights[0], weights[1:]) if weights else None

    def best_node(self, name: str) -> Node:
        """The sample that speaks for a class: the first of those with the largest weight."""
        return max(self._ballots[name], key=lambda ballot: ballot.weight).node

    def answer(
        self,
        *,
        winner: str | None = None,
        confidence: float | None = None,
        kind: ConfidenceKind = "majority_posterior",
    ) -> Answer:
        """The answer of the winning class, with the other classes and their shares as alternatives.

        Without any vote there is no text, so that the controller falls back on its own (a conclusion, or a whole
        reply), and the node is the best sample to look at: the one with the highest mean log probability where it
        is known, else the first that the model finished, else the first.

        Args:
            winner: The class; None for the leader.
            confidence: In [0, 1]; dropped when there is no vote.
            kind: What `confidence` is the probability of.
        """
        winner = self.leader if winner is None else winner
        if winner is None:
            return Answer(None, _fallback(self._silent))
        node = self.best_node(winner)
        rivals = [name for name, _ in self.ranking() if name != winner]
        return Answer(
            node.answer,
            node,
            confidence=confidence,
            confidence_kind=None if confidence is None else kind,
            alternatives=tuple((self.best_node(name).answer or name, self.share(name)) for name in rivals),
        )

    def _tie_key(self, name: str) -> float:
        if self._ties == "first":
            return 0.0
        known = [value for ballot in self._ballots[name] if (value := mean_logprob(ballot.node)) is not None]
        return sum(known) / len(known) if known else -math.inf


def leader_probability(leader: int, runner_up: int) -> float:
    """P(p > 1/2) for the leader's true share p of the votes of the top two, with a uniform prior.

    1 - I_{1/2}(v1 + 1, v2 + 1) (Aggarwal et al., 2023, arXiv:2305.11860), exactly: with n = v1 + v2 + 1 it is the
    chance of at most v1 heads in n throws of a fair coin, sum_{j <= v1} C(n, j) / 2^n.
    """
    throws = leader + runner_up + 1
    outcomes: int = sum(math.comb(throws, heads) for heads in range(leader + 1))
    return outcomes / (1 << throws)


def votes_to_reach(target: float, votes: Votes) -> int:
    """How many more votes, all for the leader, bring its Beta posterior to ``target``; 0 if it is there."""
    leader, rival = map(_whole, votes.top_two)
    more = 0
    while leader_probability(leader + more, rival) < target:
        more += 1
    return more


def dirichlet_leader_probability(leader: int, rivals: Sequence[int]) -> float:
    """P(p_1 > max_j p_j) for shares p ~ Dirichlet(votes + 1) over the classes seen, exactly.

    The rule that Aggarwal et al. (2023) estimate by drawing. Shares are independent Gamma(v + 1) variables over their
    sum, a rival stays below x with probability 1 - e^-x P_j(x), P_j(x) = sum_{m <= v_j} x^m / m!, and so

        P = sum_s (-1)^s sum_m e_s[m] C(v_1 + m, m) / (s + 1)^(v_1 + m + 1)

    where e_s[m] is the coefficient of x^m / m! in the s-th elementary symmetric polynomial of the P_j: an integer, so
    nothing cancels by rounding. Never larger than `leader_probability` of the top two.
    """
    symmetric: list[list[int]] = [[1]]
    for votes in rivals:
        grown = [list(row) for row in symmetric] + [[]]
        for size, row in enumerate(symmetric):
            grown[size + 1] = _plus(grown[size + 1], _times_truncated_exponential(row, votes))
        symmetric = grown
    total = Fraction(0)
    for size, row in enumerate(symmetric):
        base = size + 1
        highest = len(row) - 1
        scaled = sum(
            value * math.comb(leader + power, power) * base ** (highest - power) for power, value in enumerate(row)
        )
        total += Fraction((-1) ** size * scaled, base ** (leader + highest + 1))
    return float(total)


def _times_truncated_exponential(row: Sequence[int], highest: int) -> list[int]:
    """Coefficients of x^m / m! in (sum row_i x^i / i!) (sum_{j <= highest} x^j / j!)."""
    product = [0] * (len(row) + highest)
    for power, value in enumerate(row):
        for extra in range(highest + 1):
            product[power + extra] += value * math.comb(power + extra, extra)
    return product


def _plus(left: Sequence[int], right: Sequence[int]) -> list[int]:
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    return [value + (shorter[index] if index < len(shorter) else 0) for index, value in enumerate(longer)]


def mean_logprob(node: Node) -> float | None:
    """Log probability per sampled token; None where the engine was not asked."""
    return None if node.logprob is None else node.logprob / max(1, node.output_tokens)


def _fallback(nodes: Sequence[Node]) -> Node | None:
    known = [(value, node) for node in nodes if (value := mean_logprob(node)) is not None]
    if known:
        return max(known, key=lambda pair: pair[0])[1]
    return next((node for node in nodes if node.finish is FinishReason.END), nodes[0] if nodes else None)


def _whole(weight: float) -> int:
    assert float(weight).is_integer(), f"a posterior needs whole numbers of votes, not {weight}"
    return int(weight)
