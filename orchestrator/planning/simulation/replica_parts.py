"""What a replica is made of, what it counts, and what it has in hand."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planning.simulation.step_time import StepTime
from orchestrator.planning.simulation.work import Call, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica is made of.

    Attributes:
        step: How long its steps take.
        max_sequences: Most in a batch; more wait.
        max_step_tokens: Most tokens in a step, one for each sequence that writes and the rest for prompts.
        kv_tokens: Tokens of KV that fit.
        shares_reads: Whether the KV of a call's prefix is read once for all of its sequences (Kinetics' assumption, and
            what cascade attention does) or once for each.
    """

    step: StepTime
    max_sequences: int = 256
    max_step_tokens: int = 2048
    kv_tokens: int = 1_000_000
    shares_reads: bool = False


@dataclass(slots=True)
class ReplicaCounts:
    """What a replica has done so far."""

    busy_s: float = 0.0
    steps: int = 0
    written_tokens: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    sequence_s: float = 0.0  # integral of the batch size
    kv_token_s: float = 0.0  # integral of the KV tokens held, while busy


@dataclass(slots=True, eq=False)
class Reading:
    """A prompt that is being read, for sequences that join the batch then."""

    call: Call
    left: int
    position: int
    joining: list[Sequence]


@dataclass(slots=True)
class Run:
    """Steps under way: the same batch ``steps`` times from ``start_s``."""

    start_s: float
    steps: int
    num_sequences: int
    context: float
    chunk: int
    pairs: float
    parts: list[tuple[Reading, int]]
    is_cut: bool = False
