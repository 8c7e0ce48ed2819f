"""How one query becomes requests to several models: what a policy asks of each role.

A query of L_i input tokens and answers of L_o tokens becomes, for a policy with ``width`` samples in ``steps`` steps,
requests to `small` (generating), and where it needs them to `large` and to `verifier` (scoring, one token out). What
the samples of a query have in common is computed once, and their KV is shared, as engines with prefix caching do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.planning.workload import Workload

Numbers = NDArray[np.float64]

MAX_WIDTH = 100_000
MAX_STEPS = 1000


class _Needs(NamedTuple):
    """What a policy asks for: whether it samples more than once, goes in steps, scores, and escalates."""

    samples: bool = True
    steps: bool = False
    scores: Literal["", "answers", "steps"] = ""
    escalates: bool = False
    extra: bool = False


_POLICIES: dict[str, _Needs] = {
    "single": _Needs(samples=False),
    "self_consistency": _Needs(),
    "adaptive_consistency": _Needs(),
    "early_stopping": _Needs(),
    "budget_forcing": _Needs(samples=False, extra=True),
    "best_of_n": _Needs(scores="answers"),
    "cascade": _Needs(escalates=True),
    "beam_search": _Needs(steps=True, scores="steps"),
    "dvts": _Needs(steps=True, scores="steps"),
    "lookahead": _Needs(steps=True, scores="steps"),
    "rebase": _Needs(steps=True, scores="steps"),
    "ets": _Needs(steps=True, scores="steps"),
    "a_star": _Needs(steps=True, scores="steps"),
    "mcts": _Needs(steps=True, scores="steps"),
    "ab_mcts": _Needs(scores="answers"),
    "particle_filtering": _Needs(steps=True, scores="steps"),
    "tree_of_thoughts": _Needs(steps=True, scores="steps"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """How a query is worked on.

    Attributes:
        policy: Its name.
        width: Samples of a query (of a step, for searches), on average; may be a fraction.
        steps: Steps of a solution, for searches.
        escalation: Share of queries that a cascade hands to the large model.
        prefix_hits: Share of a step's prefix whose KV is still there when the next step is sampled or scored.
    """

    policy: str = "single"
    width: float = 1.0
    steps: int = 1
    escalation: float = 0.3
    prefix_hits: float = 1.0

    def __post_init__(self) -> None:
        if self.policy not in _POLICIES:
            raise UnknownName(kind="policy with a known fan-out", name=self.policy, known=_POLICIES)
        if not 1 <= self.width <= MAX_WIDTH:
            raise InvalidRequest(
                f"width = {self.width:g} must be from 1 to {MAX_WIDTH:,}", field="width", value=self.width
            )
        if not 1 <= self.steps <= MAX_STEPS:
            raise InvalidRequest(f"steps = {self.steps} must be from 1 to {MAX_STEPS:,}", field="steps")
        for name in ("escalation", "prefix_hits"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidRequest(f"{name} = {getattr(self, name):g} must be between 0 and 1", field=name)
        needs = _POLICIES[self.policy]
        if self.width > 1 and not needs.samples:
            raise InvalidRequest(
                f"policy {self.policy!r} samples once; leave width = {self.width:g} away, or plan for another policy",
                field="width",
                value=self.width,
            )
        if self.steps > 1 and not (needs.steps or needs.extra):
            raise InvalidRequest(
                f"policy {self.policy!r} does not go in steps; leave steps = {self.steps} away", field="steps"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that get requests."""
        needs = _POLICIES[self.policy]
        wanted = {"small": True, "large": needs.escalates, "verifier": bool(needs.scores)}
        return tuple(role for role, is_wanted in wanted.items() if is_wanted)

    def demands(self, queries: Workload) -> dict[str, Workload]:
        """Requests to each role that come of queries."""
        needs = _POLICIES[self.policy]
        demands = {"small": self._generated(queries)}
        if needs.escalates and self.escalation > 0:
            demands["large"] = queries.scaled(self.escalation)
        if needs.scores:
            demands["verifier"] = self._scored(queries, each_step=needs.scores == "steps")
        return {role: demand.merged() for role, demand in demands.items()}

    def _generated(self, queries: Workload) -> Workload:
        """Each step of each sample: its prefix is cached but for the prompt of a query's first sample."""
        return _stacked([self._step(queries, step, is_scored=False) for step in range(self.steps)], queries.name)

    def _scored(self, queries: Workload, *, each_step: bool) -> Workload:
        steps = range(self.steps) if each_step else [self.steps - 1]
        parts = [self._step(queries, step, is_scored=True, is_whole=not each_step) for step in steps]
        return _stacked(parts, queries.name)

    def _step(self, queries: Workload, step: int, *, is_scored: bool, is_whole: bool = False) -> Workload:
        """Requests of step ``step`` of all samples, for generating it or for scoring it (with what is before it).

        What the first of a query's samples computes of the prompt, the others find in the cache.
        """
        piece = queries.output_tokens / self.steps
        before = np.zeros(len(queries)) if is_whole else piece * step
        written = queries.output_tokens if is_whole else piece
        inputs = queries.input_tokens + before + (written if is_scored else 0.0)
        outputs = np.ones(len(queries)) if is_scored else np.maximum(piece, 1.0)
        is_first = step == 0 or is_whole
        if is_first:
            known = queries.cached_tokens + (queries.input_tokens - queries.cached_tokens) * (1.0 - 1.0 / self.width)
        else:
            known = self.prefix_hits * (queries.input_tokens + before)
        known = np.clip(known, 0.0, inputs - 1.0)
        stretch = queries.longest_total / (queries.input_tokens + queries.output_tokens)
        longest_new = queries.longest_input + (stretch * written if is_scored else 0.0) if is_first else 0.0
        return Workload(
            rates=queries.rates * self.width,
            input_tokens=inputs,
            cached_tokens=known,
            output_tokens=outputs,
            resident_tokens=queries.input_tokens / self.width + before + written,
            longest_input=np.maximum(longest_new, stretch * (inputs - known)),
            longest_total=stretch * (inputs + outputs),
            name=queries.name,
        )


def _stacked(parts: list[Workload], name: str) -> Workload:
    def column(field: str) -> Numbers:
        return np.concatenate([getattr(part, field) for part in parts])

    return Workload(
        rates=column("rates"),
        input_tokens=column("input_tokens"),
        cached_tokens=column("cached_tokens"),
        output_tokens=column("output_tokens"),
        resident_tokens=column("resident_tokens"),
        longest_input=column("longest_input"),
        longest_total=column("longest_total"),
        name=name,
    )
