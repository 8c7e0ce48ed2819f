"""Scores a candidate by how many of the others give the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.verifier import Candidate, Meter


@dataclass(frozen=True, slots=True)
class Majority:
    """The share of the votes that the candidate's answer has among the candidates scored with it. Free."""

    source: ClassVar[str] = "Wang et al. 2022, arXiv:2203.11171 (self-consistency)"
    needs: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The name its scores are kept under."""
        return "majority"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:  # noqa: ARG002  # nothing to buy
        """For each candidate: votes of its answer class / candidates with an answer; None without an answer."""
        votes = Counter(candidate.answer_class for candidate in candidates if candidate.answer_class is not None)
        total = votes.total()
        return [
            votes[candidate.answer_class] / total if candidate.answer_class is not None else None
            for candidate in candidates
        ]
