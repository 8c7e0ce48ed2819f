"""What can go wrong with a scripted engine, and when: faults are values, plans say which request gets which.

A plan is a function of the request's number (from 0, in order of arrival) and the request, so every run of a test
fails in the same places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.engine import GenerateRequest


class FaultKind(StrEnum):
    """What goes wrong."""

    FAIL = "fail"  # EngineFailed
    HANG = "hang"  # nothing more comes until the request is cancelled or closed
    SLOW = "slow"  # every wait is `factor` times as long
    MISCOUNT = "miscount"  # Finished.output_tokens is off by `extra_tokens`
    OVERRUN = "overrun"  # samples run `extra_tokens` past their max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong with one request.

    Attributes:
        kind: What.
        after_tokens: For FAIL and HANG, once exactly this many tokens of the request, over all samples, have been
            delivered; 0 for before the prompt has been read.
        is_retryable: What `EngineFailed` says.
        message: What `EngineFailed` says.
        factor: For SLOW.
        extra_tokens: For MISCOUNT and OVERRUN; only for engines that do not declare exact counts.
    """

    kind: FaultKind = FaultKind.FAIL
    after_tokens: int = 0
    is_retryable: bool = True
    message: str = "the scripted engine failed as planned"
    factor: float = 10.0
    extra_tokens: int = 0

    @property
    def is_lie(self) -> bool:
        """Whether an engine with exact counts would break its promise by it."""
        return self.kind in {FaultKind.MISCOUNT, FaultKind.OVERRUN}


FaultPlan = Callable[[int, GenerateRequest], Fault | None]
"""Which fault, if any, the request with this number gets."""


def on_calls(faults: Mapping[int, Fault]) -> FaultPlan:
    """Faults by the request's number."""
    return lambda call, _request: faults.get(call)


def on_seeds(seeds: Iterable[int], fault: Fault) -> FaultPlan:
    """The fault for every request one of whose samples has one of these seeds, as often as it is tried."""
    chosen = frozenset(seeds)
    return lambda _call, request: fault if any(sample.seed in chosen for sample in request.samples) else None


def at_random(probability: float, fault: Fault, *, seed: int = 0) -> FaultPlan:
    """The fault with this probability, drawn from the request's number and ``seed``."""

    def plan(call: int, _request: GenerateRequest) -> Fault | None:
        digest = hashlib.blake2b(f"{seed}:{call}".encode(), digest_size=8).digest()
        return fault if int.from_bytes(digest, "big") < probability * 2**64 else None

    return plan
