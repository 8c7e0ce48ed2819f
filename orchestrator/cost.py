"""Cost models, each with its formula: token prices, FLOPs, effective FLOPs (Kinetics), idealised runtime.

Pure arithmetic; `orchestrator.ledger` uses it to reserve and settle, reports use it to compare.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

PICODOLLARS_PER_USD = 10**12
KINETICS_INTENSITY = 562.5
"""FLOPs that cost as much as one byte of memory traffic on a current accelerator (Kinetics, Infini-AI-Lab)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """US dollars per million tokens; cached prompt tokens cost as much as prompt tokens unless priced."""

    prompt_usd: float = 0.0
    output_usd: float = 0.0
    cached_prompt_usd: float | None = None

    def picodollars(self, *, prompt_tokens: int, cached_tokens: int = 0, output_tokens: int = 0) -> int:
        """Price of a call, rounded up: ((prompt - cached) * p + cached * c + output * o) / 1e6 dollars."""
        cached_usd = self.prompt_usd if self.cached_prompt_usd is None else self.cached_prompt_usd
        return (
            (prompt_tokens - cached_tokens) * _picodollars_per_token(self.prompt_usd)
            + cached_tokens * _picodollars_per_token(cached_usd)
            + output_tokens * _picodollars_per_token(self.output_usd)
        )


@lru_cache(maxsize=256)
def _picodollars_per_token(usd: float) -> int:
    """Of a price in dollars per million tokens: microdollars per million are picodollars per token."""
    return math.ceil(usd * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What the cost models need to know of a model; zeros where it is not known.

    Attributes:
        parameters: Parameters that take part in a forward pass (active ones for mixtures of experts).
        attention_width: Query heads x head dimension x layers.
        kv_width: Key-value heads x head dimension x layers.
        kv_bytes_per_element: 2 for 16-bit caches.
        prices: What a token costs.
    """

    parameters: int = 0
    attention_width: int = 0
    kv_width: int = 0
    kv_bytes_per_element: int = 2
    prices: TokenPrices = field(default_factory=TokenPrices)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.kv_width * self.kv_bytes_per_element

    def flops(self, *, start: int, num_tokens: int) -> int:
        """Forward-pass FLOPs of ``num_tokens`` tokens that follow ``start`` tokens of context.

        2 P n for the weights, plus 4 H for each pair of a token and one it attends to: with n tokens after s,
        4 H (s n + n^2 / 2) = 2 H n (2 s + n), where H is `attention_width`.
        """
        weights = 2 * self.parameters * num_tokens
        attention = 2 * self.attention_width * num_tokens * (2 * start + num_tokens)
        return weights + attention

    def kv_read_bytes(self, *, prompt_tokens: int, output_lengths: Sequence[int]) -> int:
        """KV bytes read while samples of one prompt are decoded together, the prompt's read once per step.

        Sum over steps of (L_i while any sample lives + each live sample's own length), times the bytes per token.
        For n samples of equal length L_o and 2-byte elements: 2 H_kv L_o (2 L_i + n L_o), as in Kinetics.
        """
        shared_twice = 2 * prompt_tokens * max(output_lengths, default=0)
        own_twice = sum(length * length for length in output_lengths)
        return self.kv_bytes_per_token * (shared_twice + own_twice) // 2


def kinetics_flops(
    model: ModelCost, *, prompt_tokens: int, output_tokens: int, num_samples: int, intensity: float = KINETICS_INTENSITY
) -> float:
    """Effective FLOPs of decoding n samples of L_o tokens from one prompt of L_i (Kinetics, Infini-AI-Lab).

    compute = n (2 P L_o + 2 H L_o (2 L_i + L_o)); memory = 2 H_kv L_o (2 L_i + n L_o) bytes;
    result = compute + I * memory. Weight reads are taken as amortised by a large batch.
    """
    compute = num_samples * model.flops(start=prompt_tokens, num_tokens=output_tokens)
    memory = model.kv_read_bytes(prompt_tokens=prompt_tokens, output_lengths=[output_tokens] * num_samples)
    return compute + intensity * memory


def kinetics_sparse_flops(
    model: ModelCost,
    *,
    prompt_tokens: int,
    output_tokens: int,
    num_samples: int,
    kv_budget: int,
    intensity: float = KINETICS_INTENSITY,
) -> float:
    """Effective FLOPs when each token attends to at most ``kv_budget`` cached ones; no prefix is shared.

    Attended pairs: b L_o - max(0, b - L_i)^2 / 2, valid for L_o >= b - L_i.

    Raises:
        ValueError: Outside the formula's range.
    """
    grace = max(0, kv_budget - prompt_tokens)
    if output_tokens < grace:
        raise ValueError(f"output_tokens={output_tokens} must be at least kv_budget - prompt_tokens = {grace}")
    attended = kv_budget * output_tokens - grace * grace / 2
    compute = 2 * model.parameters * output_tokens + 4 * model.attention_width * attended
    memory = model.kv_bytes_per_token * attended
    return num_samples * (compute + intensity * memory)


@dataclass(frozen=True, slots=True)
class IdealisedRuntime:
    """Runtime on a dedicated reference stack: T(p, o) = f(p) + (o - 1) beta (Narayanan et al., helm-efficiency).

    Attributes:
        prompt_profile: Points (prompt tokens, seconds until the first token), ascending; between them f is
            interpolated linearly, beyond them extended along the last segment, before them constant.
        seconds_per_token: beta.
    """

    prompt_profile: tuple[tuple[int, float], ...]
    seconds_per_token: float

    def prompt_seconds(self, prompt_tokens: int) -> float:
        """f(p)."""
        points = self.prompt_profile
        if len(points) == 1 or prompt_tokens <= points[0][0]:
            return points[0][1]
        upper = min(max(bisect.bisect_left(points, (prompt_tokens, -math.inf)), 1), len(points) - 1)
        (left, low), (right, high) = points[upper - 1], points[upper]
        return low + (high - low) * (prompt_tokens - left) / (right - left)

    def seconds(self, *, prompt_tokens: int, output_tokens: int) -> float:
        """T(p, o) for at least one output token."""
        return self.prompt_seconds(prompt_tokens) + (output_tokens - 1) * self.seconds_per_token
