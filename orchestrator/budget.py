"""What a caller allows a job to spend, and the exact amounts that are counted against it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Self

from orchestrator.cost import PICODOLLARS_PER_USD
from orchestrator.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Amount:
    """A vector of exact, additive quantities; what reservations and settlements are made of."""

    output_tokens: int = 0
    total_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    picodollars: int = 0
    flops: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
            self.model_calls + other.model_calls,
            self.tool_calls + other.tool_calls,
            self.picodollars + other.picodollars,
            self.flops + other.flops,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.output_tokens - other.output_tokens,
            self.total_tokens - other.total_tokens,
            self.model_calls - other.model_calls,
            self.tool_calls - other.tool_calls,
            self.picodollars - other.picodollars,
            self.flops - other.flops,
        )

    def to_json(self) -> dict[str, int]:
        """Fields that are not zero."""
        return {name: value for name in AMOUNT_NAMES if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, data: dict[str, int]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)


AMOUNT_NAMES = tuple(item.name for item in fields(Amount))
NOTHING = Amount()


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Caps on what a job may spend; None means no cap. Every token counts: judges', probes', retries', drafts'.

    Attributes:
        max_output_tokens: Tokens sampled.
        max_total_tokens: Tokens read and sampled, cached ones included.
        max_model_calls: Sequences sampled and forward passes asked for.
        max_tool_calls: Tools called.
        max_usd: US dollars, by the models' token prices.
        max_flops: Floating point operations of all forward passes.
        max_seconds: Wall-clock seconds from the job's start; waits for people do not count.
        target_confidence: Stop early once the policy is this sure of its answer. Above 0 and below 1.
        answer_reserve_tokens: Output tokens kept back so that a job that was cut off can still state an answer;
            None for a tenth of the output cap, at least 8 and at most 48.
    """

    max_output_tokens: int | None = None
    max_total_tokens: int | None = None
    max_model_calls: int | None = None
    max_tool_calls: int | None = None
    max_usd: float | None = None
    max_flops: float | None = None
    max_seconds: float | None = None
    target_confidence: float | None = None
    answer_reserve_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_output_tokens", "max_total_tokens", "max_model_calls", "max_tool_calls"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InvalidRequest(f"{name} must be a whole number, not {value!r}", field=name, value=value)
        for name in _CAP_NAMES:
            value = getattr(self, name)
            lowest = 0 if name == "max_tool_calls" else None
            if value is None:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or (isinstance(value, float) and not math.isfinite(value)):
                raise InvalidRequest(f"{name} must be a finite number, not {value!r}", field=name, value=value)
            if value < 0 or (value == 0 and lowest is None):
                raise InvalidRequest(
                    f"{name} must be above 0, not {value!r}; leave it out for no cap", field=name, value=value
                )
        confidence = self.target_confidence
        if confidence is not None and not (isinstance(confidence, float | int) and 0 < confidence < 1):
            raise InvalidRequest(
                f"target_confidence must be above 0 and below 1, not {confidence!r}",
                field="target_confidence",
                value=confidence,
            )
        reserve = self.answer_reserve_tokens
        if reserve is not None and (isinstance(reserve, bool) or not isinstance(reserve, int) or reserve < 0):
            raise InvalidRequest(
                f"answer_reserve_tokens must be a whole number of at least 0, not {reserve!r}",
                field="answer_reserve_tokens",
                value=reserve,
            )

    @classmethod
    def parse(cls, text: str, *, target_confidence: float | None = None) -> Self:
        """A budget from the command line's form, for instance ``tokens=2000,seconds=60,usd=0.01``.

        Raises:
            InvalidRequest: Naming the part that cannot be read, and the parts that can.
        """
        values: dict[str, Any] = {}  # Any: int or float by field
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            key, sign, raw = part.partition("=")
            name = _SHORT_NAMES.get(key.strip(), key.strip())
            if name not in _PARSERS or not sign:
                raise InvalidRequest(
                    f"cannot read {part!r} in the budget; write for instance tokens=2000,seconds=60,usd=0.01 "
                    f"(known: {', '.join(sorted(_SHORT_NAMES))})",
                    field="budget",
                    value=text,
                )
            if name in values:
                raise InvalidRequest(f"the budget names {key.strip()} twice", field="budget", value=text)
            values[name] = _parsed_number(raw.strip(), field=key.strip(), name=name)
        return cls(target_confidence=target_confidence, **values)

    def caps(self) -> dict[str, int]:
        """The caps on additive amounts, by field of `Amount`, in its exact units."""
        caps: dict[str, int] = {}
        for amount_name, cap_name, scale in _CAPS:
            value = getattr(self, cap_name)
            if value is not None:
                # As written: 0.29 is no binary number.
                caps[amount_name] = (
                    value * scale if isinstance(value, int) else math.floor(Fraction(str(value)) * scale)
                )
        return caps

    @property
    def reserve_tokens(self) -> int:
        """Output tokens kept back for stating an answer."""
        if self.answer_reserve_tokens is not None:
            return self.answer_reserve_tokens
        if self.max_output_tokens is None:
            return _MOST_RESERVE_TOKENS
        return max(_LEAST_RESERVE_TOKENS, min(_MOST_RESERVE_TOKENS, self.max_output_tokens // 10))

    def to_json(self) -> dict[str, Any]:
        """Fields that are set."""
        return {name: value for name in _FIELD_NAMES if (value := getattr(self, name)) is not None}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            InvalidRequest: On a name that is no field of a budget.
        """
        for name in data:
            if name not in _FIELD_NAMES:
                raise InvalidRequest(
                    f"a budget has no {name!r}; it has {', '.join(sorted(_FIELD_NAMES))}", field=f"budget.{name}"
                )
        return cls(**data)


_FIELD_NAMES = tuple(item.name for item in fields(Budget))
_LEAST_RESERVE_TOKENS = 8
_MOST_RESERVE_TOKENS = 48
_CAPS = (
    ("output_tokens", "max_output_tokens", 1),
    ("total_tokens", "max_total_tokens", 1),
    ("model_calls", "max_model_calls", 1),
    ("tool_calls", "max_tool_calls", 1),
    ("picodollars", "max_usd", PICODOLLARS_PER_USD),
    ("flops", "max_flops", 1),
)
_CAP_NAMES = (*(cap_name for _, cap_name, _ in _CAPS), "max_seconds")
CAP_OF_AMOUNT = {amount_name: cap_name for amount_name, cap_name, _ in _CAPS}
"""Which cap of `Budget` limits which field of `Amount`."""

_SHORT_NAMES = {
    "tokens": "max_output_tokens",
    "total_tokens": "max_total_tokens",
    "calls": "max_model_calls",
    "tool_calls": "max_tool_calls",
    "usd": "max_usd",
    "flops": "max_flops",
    "seconds": "max_seconds",
    "reserve": "answer_reserve_tokens",
}
_PARSERS: dict[str, type[int] | type[float]] = {
    "max_output_tokens": int,
    "max_total_tokens": int,
    "max_model_calls": int,
    "max_tool_calls": int,
    "max_usd": float,
    "max_flops": float,
    "max_seconds": float,
    "answer_reserve_tokens": int,
}
_WITHOUT_SUFFIX = frozenset({"max_seconds", "max_usd"})  # 5m would be read as minutes
_SUFFIXES = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "t": 1_000_000_000_000}


def _parsed_number(text: str, *, field: str, name: str) -> int | float:
    is_whole = _PARSERS[name] is int
    suffixes = {} if name in _WITHOUT_SUFFIX else _SUFFIXES
    digits, factor = (text[:-1], suffixes[text[-1].lower()]) if text[-1:].lower() in suffixes else (text, 1)
    try:
        value = float(digits) * factor
    except ValueError:
        raise InvalidRequest(f"budget {field} must be a number, not {text!r}", field=field, value=text) from None
    if not math.isfinite(value):
        raise InvalidRequest(f"budget {field} must be finite, not {text!r}", field=field, value=text)
    if is_whole and value != int(value):
        raise InvalidRequest(f"budget {field} must be a whole number, not {text!r}", field=field, value=text)
    return int(value) if is_whole else value


UNLIMITED = Budget()
