"""When requests arrive and how long they are: Poisson arrivals here, recorded ones in `traces`."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from orchestrator.errors import InvalidRequest

MAX_TOKENS = 10_000_000
"""Longest prompt or reply that is believed; anything above is a broken file or a slip of the hand."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of the plan.

    Attributes:
        at_s: When it is due, in seconds from the start of the run.
        input_tokens: Wanted length of the prompt; 0 where the prompt has a length of its own.
        output_tokens: Most tokens of the reply, at least 1.
        blocks: Hash ids of the prompt's blocks (`traces.BLOCK_TOKENS` each), where the trace has them: two prompts
            that begin with the same ids begin with the same text.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths: fixed, or lognormal.

    Attributes:
        mean_tokens: Its mean, from 0.
        cv: Standard deviation over mean; 0 for a fixed length.
    """

    mean_tokens: float
    cv: float = 0.0

    @classmethod
    def parse(cls, text: str, *, option: str) -> Lengths:
        """Reads ``256`` or ``mean=256,cv=0.5``.

        Raises:
            InvalidRequest: It is neither.
        """
        parts = dict(part.strip().partition("=")[::2] for part in (text if "=" in text else f"mean={text}").split(","))
        try:
            lengths = cls(float(parts.pop("mean")), float(parts.pop("cv", "0")))
        except (KeyError, ValueError):
            raise _bad_lengths(text, option) from None
        if parts or not (1 <= lengths.mean_tokens <= MAX_TOKENS and 0 <= lengths.cv <= 100):
            raise _bad_lengths(text, option)
        return lengths

    def draw(self, rng: random.Random) -> int:
        """A length, at least 1."""
        if self.cv == 0:
            return round(self.mean_tokens)
        variance = math.log1p(self.cv**2)
        drawn = rng.lognormvariate(math.log(self.mean_tokens) - variance / 2, math.sqrt(variance))
        return max(1, round(min(drawn, MAX_TOKENS)))


def _bad_lengths(text: str, option: str) -> InvalidRequest:
    return InvalidRequest(
        f"{option} {text!r} is no length in tokens; write a number from 1 to {MAX_TOKENS:,}, or mean=256,cv=0.5 for "
        "lognormal lengths (cv is the standard deviation over the mean, from 0 to 100)",
        field=option.lstrip("-").replace("-", "_"),
        value=text,
    )


def poisson(
    rate_per_s: float, *, seed: int, duration_s: float | None = None, limit: int | None = None
) -> Iterator[float]:
    """Arrival times of a Poisson process, in seconds: gaps between them are exponential with mean ``1 / rate_per_s``.

    Args:
        rate_per_s: Mean number of arrivals per second, above 0.
        seed: The same seed gives the same times, whatever is drawn for lengths.
        duration_s: Arrivals after that are left out.
        limit: At most so many; one of the two has to be given for the iterator to end.
    """
    rng = random.Random(f"{seed}/arrivals")
    gaps = (rng.expovariate(rate_per_s) for _ in (itertools.count() if limit is None else range(limit)))
    times = itertools.accumulate(gaps)
    return times if duration_s is None else itertools.takewhile(lambda time_s: time_s < duration_s, times)


def with_lengths(
    arrivals: Iterable[Arrival], *, inputs: Lengths | None, outputs: Lengths | None, seed: int
) -> Iterator[Arrival]:
    """The same arrivals with lengths drawn anew where a distribution is given; blocks go with the lengths they had."""
    input_rng, output_rng = random.Random(f"{seed}/inputs"), random.Random(f"{seed}/outputs")
    for arrival in arrivals:
        if inputs is not None:
            arrival = replace(arrival, input_tokens=inputs.draw(input_rng), blocks=())
        if outputs is not None:
            arrival = replace(arrival, output_tokens=outputs.draw(output_rng))
        yield arrival
