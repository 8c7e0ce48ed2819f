"""What has to be served: requests by size and rate, and the objectives they are to be served within.

A bucket holds requests of similar input and output length. Capacity is computed at a bucket's means, objectives are
held at its longest request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvalidRequest
from orchestrator.planning.traces import Trace

Numbers = NDArray[np.float64]

INPUT_EDGES = (1, 25, 100, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000)
OUTPUT_EDGES = (1, 25, 100, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)
"""Where buckets begin, in tokens; each is two to four times as wide as the one before (compare Melange's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What a request is promised.

    Attributes:
        ttft_s: Seconds to its first token, for the share `quantile` of requests.
        tpot_s: Mean seconds between its tokens after the first.
        quantile: Share of requests that keep `ttft_s`, in (0, 1).
    """

    ttft_s: float = 1.0
    tpot_s: float = 0.1
    quantile: float = 0.9

    def __post_init__(self) -> None:
        for name, value in (("ttft", self.ttft_s), ("tpot", self.tpot_s)):
            if not 0 < value <= 1e6:
                raise InvalidRequest(f"{name} = {value:g} s must be more than 0 s", field=name, value=value)
        if not 0 < self.quantile < 1:
            raise InvalidRequest(f"quantile = {self.quantile:g} must be between 0 and 1", field="quantile")


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests to one model, one row for each kind; all arrays have shape (m,).

    Attributes:
        rates: Requests per second, above 0.
        input_tokens: Mean, cached ones included.
        cached_tokens: Mean of those that a prefix cache holds already; less than the input.
        output_tokens: Mean; at least 1.
        resident_tokens: Mean KV that a sequence holds at its end, what several sequences share divided among them.
        longest_input: Most input tokens that have to be computed.
        longest_total: Most tokens of input and output together.
        name: Of the workload.
    """

    rates: Numbers
    input_tokens: Numbers
    cached_tokens: Numbers
    output_tokens: Numbers
    resident_tokens: Numbers
    longest_input: Numbers
    longest_total: Numbers
    name: str = "workload"

    @classmethod
    def of_lengths(
        cls,
        inputs: Numbers,
        outputs: Numbers,
        *,
        rate: float,
        cached: Numbers | None = None,
        name: str = "workload",
    ) -> Workload:
        """One row for each request; ``rate`` is that of all together."""
        cached = np.zeros(len(inputs)) if cached is None else cached
        return cls(
            rates=np.full(len(inputs), rate / len(inputs)),
            input_tokens=inputs,
            cached_tokens=cached,
            output_tokens=outputs,
            resident_tokens=inputs + outputs,
            longest_input=inputs - cached,
            longest_total=inputs + outputs,
            name=name,
        )

    def __len__(self) -> int:
        return len(self.rates)

    @property
    def rate(self) -> float:
        """Requests per second, all rows together."""
        return float(self.rates.sum())

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the buckets that the rows are in, for people."""
        return tuple(_label(int(key)) for key in self._keys())

    def scaled(self, factor: float) -> Workload:
        """The same at ``factor`` times the rate."""
        return replace(self, rates=self.rates * factor)

    def within(self, context: int) -> Workload:
        """Without rows whose longest request has more than ``context`` tokens.

        Raises:
            InvalidRequest: None is left.
        """
        kept = self.longest_total <= context
        if not kept.any():
            raise InvalidRequest(
                f"all requests of {self.name!r} are longer than {context:,} tokens; choose a model that reads more",
                field="context",
                value=context,
            )
        columns = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "name"}
        return replace(self, **{name: values[kept] for name, values in columns.items()})

    def merged(self) -> Workload:
        """One row for each bucket of similar sizes: means weighted by rate, and the longest of each."""
        found, place = np.unique(self._keys(), return_inverse=True)
        rates: Numbers = np.bincount(place, weights=self.rates).astype(np.float64)

        def mean(values: Numbers) -> Numbers:
            return np.bincount(place, weights=values * self.rates) / rates

        def most(values: Numbers) -> Numbers:
            largest = np.zeros(len(found))
            np.maximum.at(largest, place, values)
            return largest

        return Workload(
            rates=rates,
            input_tokens=mean(self.input_tokens),
            cached_tokens=mean(self.cached_tokens),
            output_tokens=mean(self.output_tokens),
            resident_tokens=mean(self.resident_tokens),
            longest_input=most(self.longest_input),
            longest_total=most(self.longest_total),
            name=self.name,
        )

    def _keys(self) -> NDArray[np.int64]:
        inputs = np.searchsorted(INPUT_EDGES, self.input_tokens, side="right") - 1
        outputs = np.searchsorted(OUTPUT_EDGES, self.output_tokens, side="right") - 1
        return np.maximum(inputs, 0) * len(OUTPUT_EDGES) + np.maximum(outputs, 0)


def _label(key: int) -> str:
    inputs, outputs = divmod(key, len(OUTPUT_EDGES))
    return f"in {_range(INPUT_EDGES, inputs)}, out {_range(OUTPUT_EDGES, outputs)}"


def _range(edges: tuple[int, ...], place: int) -> str:
    return f"{edges[place]}-{edges[place + 1] - 1}" if place + 1 < len(edges) else f"{edges[place]}+"


_NUMBER = r"(\d{1,12}(?:\.\d{1,12})?)"
_LENGTHS = re.compile(rf"{_NUMBER}|mean={_NUMBER}(?:,cv={_NUMBER})?")
_MOST_TOKENS = 1_000_000
_MOST_SPREAD = 10


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal lengths; one length if there is no spread.

    Attributes:
        mean: Tokens.
        cv: Standard deviation over mean.
    """

    mean: float
    cv: float = 0.0

    @classmethod
    def parse(cls, text: str, *, field: str) -> Lengths:
        """Of ``"512"`` or ``"mean=512,cv=0.6"``.

        Raises:
            InvalidRequest: It is neither.
        """
        found = _LENGTHS.fullmatch(text.strip())
        mean, cv = (float(found[1] or found[2]), float(found[3] or 0)) if found else (0.0, 0.0)
        if not 1 <= mean <= _MOST_TOKENS or not 0 <= cv <= _MOST_SPREAD:
            raise InvalidRequest(
                f"{field} must be tokens such as 512, or mean=512,cv=0.6 (up to {_MOST_TOKENS:,} tokens, a cv up to "
                f"{_MOST_SPREAD}), not {text!r}",
                field=field,
                value=text,
            )
        return cls(mean, cv)

    def sample(self, count: int, *, phase: float) -> Numbers:
        """``count`` lengths at evenly spaced quantiles, shuffled by ``phase`` so that two of them are independent."""
        if self.cv == 0:
            return np.full(count, round(self.mean), dtype=np.float64)
        from scipy.special import ndtri

        quantiles = (_order(count, phase) + 0.5) / count
        sigma2 = np.log1p(self.cv**2)
        lengths = np.exp(np.log(self.mean) - sigma2 / 2 + np.sqrt(sigma2) * ndtri(quantiles))
        return np.asarray(np.maximum(np.round(lengths), 1.0), dtype=np.float64)


def _order(count: int, phase: float) -> NDArray[np.int64]:
    """A permutation without a trend: the order of multiples of ``phase`` modulo 1."""
    return np.argsort((np.arange(count) * phase) % 1.0, kind="stable")


_SAMPLES = 4096
_MOST_WINDOWS = 10_000_000
_PHASES = (0.6180339887498949, 0.4142135623730951)  # golden ratio and square root of 2, less 1: nothing in step


def described(inputs: Lengths, outputs: Lengths, *, rate: float, name: str = "described") -> Workload:
    """Requests with these lengths, independent of each other; one row each.

    Raises:
        InvalidRequest: The rate is not above 0.
    """
    _check_rate(rate)
    first, second = _PHASES
    return Workload.of_lengths(
        inputs.sample(_SAMPLES, phase=first), outputs.sample(_SAMPLES, phase=second), rate=rate, name=name
    )


def of_trace(
    trace: Trace,
    *,
    rate: float | None = None,
    scale: float = 1.0,
    window_s: float = 60.0,
    busy: float = 0.95,
    prefix_hits: float = 0.0,
) -> Workload:
    """Requests with the lengths of a trace, one row each.

    Args:
        trace: The trace.
        rate: Requests per second; None for the trace's, in windows busier than the share ``busy`` of all.
        scale: Times the rate.
        window_s: Length of a window.
        busy: A quantile, in [0, 1].
        prefix_hits: Of what an earlier request shares, the share that a prefix cache still holds, in [0, 1].

    Raises:
        InvalidRequest: The trace says nothing about a rate and none is given, or an argument is out of its range.
    """
    for field, value in (("busy", busy), ("prefix_hits", prefix_hits)):
        if not 0 <= value <= 1:
            raise InvalidRequest(f"{field} = {value:g} must be between 0 and 1", field=field, value=value)
    if not 0 < scale <= 1e9:
        raise InvalidRequest(f"scale = {scale:g} must be more than 0", field="scale", value=scale)
    if rate is None:
        if window_s <= 0 or not trace.duration_s / window_s <= _MOST_WINDOWS:
            raise InvalidRequest(
                f"window = {window_s:g} s does not suit a trace of {trace.duration_s:g} s: it must be more than 0, and "
                f"at most {_MOST_WINDOWS:,} of them may fit",
                field="window",
                value=window_s,
            )
        rate = float(np.quantile(trace.window_rates(window_s), busy))
        if rate == 0:
            raise InvalidRequest(
                f"{trace.name!r} has {len(trace):,} request(s) within {trace.duration_s:g} s, which says nothing about "
                "a rate; give --rate",
                field="rate",
            )
    _check_rate(rate)
    inputs = trace.input_tokens.astype(np.float64)
    outputs = trace.output_tokens.astype(np.float64)
    cached = np.floor(prefix_hits * trace.shared_tokens)
    return Workload.of_lengths(inputs, outputs, rate=rate * scale, cached=cached, name=trace.name)


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1e9:
        raise InvalidRequest(f"rate = {rate:g} must be more than 0 requests per second", field="rate", value=rate)
