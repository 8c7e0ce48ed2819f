"""What is asked of the simulated fleet: calls of models, each for some sequences that continue one prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.planning.simulation.replica import Replica

Prefix = tuple[tuple[int, int], ...]
"""A prompt, root first: (identity of a piece of text, its tokens). Equal identities are equal text after equal text, so
a replica that holds the KV of a piece holds that of all pieces before it or has lost them later."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a call.

    Attributes:
        call: What it belongs to.
        index: Its place there.
        output_tokens: How many tokens it will have; 0 for a call that only reads.
        keep: The identity under which its tokens stay in the cache for calls that continue it; None if none will.
        num_written: Tokens so far, exact whenever its replica reports.
        first_token_s, end_s: When they happened; negative before.
        has_ended: It was finished, cancelled or refused.
        admitted: Its place in the order of admissions to a replica; 0 while it waits there.
        ends_at_step: The step of its replica after which it is done, while it writes.
        is_cancelled: It ends with the next step.
        recomputed_tokens: Tokens read again because it had to make room for others.
    """

    call: Call
    index: int
    output_tokens: int
    keep: int | None = None
    num_written: int = 0
    first_token_s: float = -1.0
    end_s: float = -1.0
    has_ended: bool = False
    admitted: int = 0
    ends_at_step: int = 0
    is_cancelled: bool = False
    recomputed_tokens: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """Sequences that continue one prefix, on one replica.

    Attributes:
        pool: Which model.
        tree: Calls of one tree are better off on one replica.
        prefix: What they continue.
        on_sequence: Called with each sequence when it has ended.
        sequences: Given after the call was made (they point to it).
        asked_s: When the fleet was asked.
        cached_tokens: How many tokens of the prefix its replica held when its first sequence was admitted.
        is_refused: The fleet was full, or the call can never fit.
        replica: Where it is.
        num_active: Of its sequences, those that its replica has admitted.
        num_live: Of its sequences, those that have not ended.
        num_prefix_tokens: The prefix's length.
        number: Its caller's.
    """

    pool: str
    tree: int
    prefix: Prefix
    on_sequence: Callable[[Sequence], None]
    sequences: list[Sequence] = field(default_factory=list)
    asked_s: float = 0.0
    cached_tokens: int = -1
    is_refused: bool = False
    replica: Replica | None = None
    num_active: int = 0
    num_live: int = 0
    num_prefix_tokens: int = 0
    number: int = 0

    def add(self, output_tokens: int, keep: int | None = None) -> Sequence:
        """One more sequence."""
        sequence = Sequence(self, len(self.sequences), output_tokens, keep)
        self.sequences.append(sequence)
        return sequence
