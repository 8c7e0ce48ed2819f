"""`EngineHealth`: what an engine counts of itself, and how the counts of several become one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """An engine's own counters, since it was opened. What an engine does not count is 0.

    Attributes:
        is_ready: Whether a request sent now would be served.
        detail: Why not, or what is going on.
        is_shared: Whether processes that each open the engine see the same counters: that of a cluster.
        live_sequences: Sequences being generated, those that wait included.
        running_sequences: Those of them that were in the last batch.
        waiting_sequences: Those that wait for a place in one.
        requests, prompt_tokens, cached_prompt_tokens, output_tokens: Totals.
        kv_cells: Cells of the KV cache; 0 where there is none to see.
        resident_kv_cells: Cells that hold a token now.
        peak_kv_cells: Most that ever did.
        recomputed_tokens: Tokens computed although the cache had held them for the same tree (or request), and had to
            give them up.
        prefix_query_tokens: Prompt tokens that were looked for in the prefix cache, for each sequence.
        prefix_hit_tokens: How many of them were there.
        sampled_tokens: Tokens sampled, those included that nobody was given.
        preemptions: Times a sequence had to give up its KV and wait again.
        drafts: Guesses of speculative decoding, each of several tokens.
        draft_tokens: Tokens guessed.
        accepted_tokens: How many of them the model agreed with.
        decode_steps: Batches run.
        tokens_per_s: Output tokens per second while busy, averaged over the last ten seconds.
    """

    is_ready: bool = True
    detail: str = ""
    is_shared: bool = False
    live_sequences: int = 0
    running_sequences: int = 0
    waiting_sequences: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    kv_cells: int = 0
    resident_kv_cells: int = 0
    peak_kv_cells: int = 0
    recomputed_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    sampled_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    decode_steps: int = 0
    tokens_per_s: float = 0.0


TOTALS = (
    "requests",
    "prompt_tokens",
    "cached_prompt_tokens",
    "output_tokens",
    "recomputed_tokens",
    "prefix_query_tokens",
    "prefix_hit_tokens",
    "sampled_tokens",
    "preemptions",
    "drafts",
    "draft_tokens",
    "accepted_tokens",
    "decode_steps",
)
"""Counters that only grow while an engine is open."""
PRESENT = (
    "live_sequences",
    "running_sequences",
    "waiting_sequences",
    "kv_cells",
    "resident_kv_cells",
    "peak_kv_cells",
    "tokens_per_s",
)
"""What is so now, and of several engines adds up, too."""


def added(one: EngineHealth, other: EngineHealth, names: Iterable[str]) -> EngineHealth:
    """``one`` with these counters of ``other`` added to its own."""
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})
