"""How a model's next token is chosen: temperature, truncation, and the seed of each sample."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from orchestrator.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters, applied in this order: top-k, top-p, min-p, temperature.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it. In [0, 5].
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with at least this probability. In (0, 1].
        min_p: Drop tokens less likely than this share of the most likely one. In [0, 1).
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.temperature <= 5, "temperature", self.temperature, "from 0 to 5")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "at least 0 and below 1")

    @property
    def is_greedy(self) -> bool:
        """Whether every sample is the same text."""
        return self.temperature == 0


def derived_seed(job_seed: int, *parts: object) -> int:
    """A seed for one sample: a hash of the job's seed and the sample's place in the tree.

    Returns:
        An integer in [0, 2**32), the same in every process and on every replay.
    """
    text = "\x1f".join(map(str, (job_seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _require(is_valid: bool, field: str, value: float, allowed: str) -> None:
    if not is_valid:
        raise InvalidRequest(f"{field} must be {allowed}, not {value}", field=field, value=value)


GREEDY = Sampling(temperature=0.0)
