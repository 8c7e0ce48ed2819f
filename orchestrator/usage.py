"""What was spent: one record for everything that costs, added up without loss.

The record is filled where work is settled (the controller) and shown everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from orchestrator.budget import Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Compute spent. Counts are exact integers; ``a + b`` adds, and takes the larger of peaks.

    Attributes:
        prompt_tokens: Tokens read as prompts, once for all samples of one request.
        cached_prompt_tokens: The part of `prompt_tokens` whose KV was already there.
        output_tokens: Tokens sampled, end-of-sequence tokens included.
        discarded_draft_tokens: Draft tokens that verification rejected.
        lost_tokens: Tokens paid for and lost when a process died; part of the totals.
        model_calls: Sequences sampled, or forward passes asked for by a verifier.
        verifier_calls: Trajectories scored.
        verifier_tokens: Tokens (prompt and output) spent by verifiers, by model; part of the totals.
        tool_calls: Tools called.
        max_sequential_tokens: Longest chain of tokens that had to be generated one after another.
        peak_parallel_sequences: Most sequences in flight at once.
        unique_kv_tokens: Tokens of the tree with shared prefixes counted once.
        logical_kv_tokens: The same as if no prefix were shared.
        num_levels: Levels of a search: times that its policy said what it keeps of new samples (`actions.Release`).
        kept_kv_tokens: Tokens of what it kept, shared prefixes counted once, added up over the levels.
        kept_logical_kv_tokens: The same as if no prefix were shared.
        peak_kv_cells: Most KV cells that a job has had in one model's cache; 0 where no engine counts them.
        recomputed_tokens: Tokens that engines computed once more because their cache had had to give them up.
        flops: Floating point operations of the forward passes.
        effective_flops: Compute plus memory traffic in FLOPs (see `orchestrator.cost`).
        picodollars: 1e-12 US dollars; integers, so that sums are exact.
        wall_s: Seconds from start to end, waits for people excluded.
        is_estimated: Some counts come from a server that was cut off or did not say.
        overrun_tokens: Tokens a remote server produced beyond what was reserved.
    """

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    discarded_draft_tokens: int = 0
    lost_tokens: int = 0
    model_calls: int = 0
    verifier_calls: int = 0
    verifier_tokens: dict[str, int] = field(default_factory=dict)
    tool_calls: int = 0
    max_sequential_tokens: int = 0
    peak_parallel_sequences: int = 0
    unique_kv_tokens: int = 0
    logical_kv_tokens: int = 0
    num_levels: int = 0
    kept_kv_tokens: int = 0
    kept_logical_kv_tokens: int = 0
    peak_kv_cells: int = 0
    recomputed_tokens: int = 0
    flops: int = 0
    effective_flops: int = 0
    picodollars: int = 0
    wall_s: float = 0.0
    is_estimated: bool = False
    overrun_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens together, cached ones included."""
        return self.prompt_tokens + self.output_tokens

    @property
    def amount(self) -> Amount:
        """The part that caps count."""
        return Amount(
            output_tokens=self.output_tokens,
            total_tokens=self.total_tokens,
            model_calls=self.model_calls,
            tool_calls=self.tool_calls,
            picodollars=self.picodollars,
            flops=self.flops,
        )

    @property
    def usd(self) -> float:
        """US dollars."""
        return self.picodollars / 1e12

    @property
    def mean_kept_kv_tokens(self) -> float:
        """KV tokens kept on average over the levels of a search, shared prefixes counted once; 0 without levels."""
        return self.kept_kv_tokens / self.num_levels if self.num_levels else 0.0

    def __add__(self, other: Usage) -> Usage:
        # Written out: it runs several times for every sample, and a loop over the fields is slower.
        tokens = self.verifier_tokens
        if other.verifier_tokens:
            theirs = other.verifier_tokens
            tokens = {name: tokens.get(name, 0) + theirs.get(name, 0) for name in tokens | theirs}
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens + other.cached_prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            discarded_draft_tokens=self.discarded_draft_tokens + other.discarded_draft_tokens,
            lost_tokens=self.lost_tokens + other.lost_tokens,
            model_calls=self.model_calls + other.model_calls,
            verifier_calls=self.verifier_calls + other.verifier_calls,
            verifier_tokens=tokens,
            tool_calls=self.tool_calls + other.tool_calls,
            max_sequential_tokens=max(self.max_sequential_tokens, other.max_sequential_tokens),
            peak_parallel_sequences=max(self.peak_parallel_sequences, other.peak_parallel_sequences),
            unique_kv_tokens=self.unique_kv_tokens + other.unique_kv_tokens,
            logical_kv_tokens=self.logical_kv_tokens + other.logical_kv_tokens,
            num_levels=self.num_levels + other.num_levels,
            kept_kv_tokens=self.kept_kv_tokens + other.kept_kv_tokens,
            kept_logical_kv_tokens=self.kept_logical_kv_tokens + other.kept_logical_kv_tokens,
            peak_kv_cells=max(self.peak_kv_cells, other.peak_kv_cells),
            recomputed_tokens=self.recomputed_tokens + other.recomputed_tokens,
            flops=self.flops + other.flops,
            effective_flops=self.effective_flops + other.effective_flops,
            picodollars=self.picodollars + other.picodollars,
            wall_s=self.wall_s + other.wall_s,
            is_estimated=self.is_estimated or other.is_estimated,
            overrun_tokens=self.overrun_tokens + other.overrun_tokens,
        )

    def to_json(self) -> dict[str, Any]:
        """Fields that are not zero, as JSON values."""
        return {name: value for name in _FIELD_NAMES if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`; unknown fields are ignored, so that old journals can be read."""
        return cls(**{name: data[name] for name in _FIELD_NAMES if name in data})

    def with_wall(self, wall_s: float) -> Usage:
        """The same usage with its wall-clock time set."""
        return replace(self, wall_s=wall_s)


_FIELD_NAMES = tuple(item.name for item in fields(Usage))
