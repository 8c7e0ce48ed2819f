"""What a job cost, in its different meanings: one axis for each, read from a benchmark's rows, with name and format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.bench.runs.rows import Row
from orchestrator.errors import InvalidRequest, UnknownName

UNKNOWN = "\N{EN DASH}"
"""Stands in tables for what was not measured."""


_TOO_LARGE = 1e100


@dataclass(frozen=True, slots=True)
class Axis:
    """A kind of cost.

    Attributes:
        name: As in `compare` and in JSON, with its unit.
        title: As people read it, with its unit.
        spent: What a job cost; NaN where that is not known.
        is_zero_unknown: A cell that cost nothing at all was not measured (models without prices or parameters).
        is_large: Written with an exponent.
    """

    name: str
    title: str
    spent: Callable[[Row], float]
    is_zero_unknown: bool = False
    is_large: bool = False

    def format(self, cost: float) -> str:
        """Three or more significant digits; a dash for what is not known."""
        if not math.isfinite(cost):
            return UNKNOWN
        if self.is_large:
            return f"{cost:.2e}".replace("e+0", "e").replace("e+", "e")
        if self.name == "usd":
            return f"{cost:.3g}"
        return f"{cost:,.0f}" if cost >= 1000 or not cost else f"{cost:.1f}" if cost >= 10 else f"{cost:.2f}"


def axis_named(name: str) -> Axis:
    """The axis.

    Raises:
        UnknownName: There is none of that name.
    """
    if name not in AXES:
        raise UnknownName(kind="axis", name=name, known=AXES)
    return AXES[name]


def number(row: Row, value: object, *, name: str) -> float:
    """A count or an amount of a row.

    Raises:
        InvalidRequest: It is no finite number of at least 0; the message names the job.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _TOO_LARGE:
        return float(value)
    raise InvalidRequest(
        f"{name} must be a finite number of at least 0, not {str(value)[:40]!r}, in the row of problem "
        f"{row.problem[:40]!r}, label {row.label[:40]!r}, seed {row.seed}; mend or remove that row",
        field=name,
        value=str(value),
    )


def _used(name: str) -> Callable[[Row], float]:
    return lambda row: number(row, row.usage.get(name, 0), name=name)


def _total_tokens(row: Row) -> float:
    return _used("prompt_tokens")(row) + _used("output_tokens")(row)


def _usd(row: Row) -> float:
    return _used("picodollars")(row) / 1e12


def _verifier_tokens(row: Row) -> float:
    by_model = row.usage.get("verifier_tokens", {})
    if not isinstance(by_model, dict):
        return number(row, by_model, name="verifier_tokens")
    return sum(number(row, tokens, name="verifier_tokens") for tokens in by_model.values())


def _wall_s(row: Row) -> float:
    return math.nan if row.is_replayed else number(row, row.latency_s, name="latency_s")


def _samples(row: Row) -> float:
    return number(row, row.num_samples, name="num_samples")


AXES = {
    axis.name: axis
    for axis in (
        Axis("output_tokens", "output tokens", _used("output_tokens")),
        Axis("total_tokens", "total tokens", _total_tokens),
        Axis(
            "effective_flops",
            "effective FLOPs",
            _used("effective_flops"),
            is_zero_unknown=True,
            is_large=True,
        ),
        Axis("flops", "FLOPs", _used("flops"), is_zero_unknown=True, is_large=True),
        Axis("usd", "US dollars", _usd, is_zero_unknown=True),
        Axis("wall_s", "wall-clock seconds", _wall_s, is_zero_unknown=True),
        Axis("sequential_tokens", "longest chain of tokens", _used("max_sequential_tokens"), is_zero_unknown=True),
        Axis("verifier_tokens", "verifier tokens", _verifier_tokens),
        Axis("verifier_calls", "verifier calls", _used("verifier_calls")),
        Axis("samples", "samples", _samples),
    )
}
"""All axes by name, in the order of reports."""
