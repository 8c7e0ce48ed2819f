"""When jobs arrive and what they are: a Poisson stream or a trace, and a mix of recorded shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from orchestrator.errors import InvalidRequest
from orchestrator.planning.simulation.shapes import JobShape
from orchestrator.planning.traces import Trace


class Arrival(NamedTuple):
    """A job."""

    time_s: float
    shape: JobShape


class Arrivals(Protocol):
    """A stream of jobs."""

    @property
    def ends_s(self) -> float:
        """When the last job arrives; infinity for streams without an end."""
        ...

    def jobs(self, rng: np.random.Generator) -> Iterator[Arrival]:
        """Jobs in order of time; without an end, or up to the stream's own."""
        ...

    def faster(self, factor: float) -> Arrivals:
        """The same jobs, so many times as often."""
        ...


@dataclass(frozen=True, slots=True)
class Mix:
    """Kinds of jobs.

    Attributes:
        kinds: (weight, shapes of that kind); a job is one of a kind's shapes, drawn at random.
    """

    kinds: tuple[tuple[float, tuple[JobShape, ...]], ...]

    def __post_init__(self) -> None:
        if not self.kinds or not all(shapes for _, shapes in self.kinds):
            raise InvalidRequest("a mix needs at least one kind, and each kind a shape", field="mix")
        if min(weight for weight, _ in self.kinds) < 0 or sum(weight for weight, _ in self.kinds) <= 0:
            raise InvalidRequest("weights of a mix are 0 or more, and one is above 0", field="mix")

    @classmethod
    def of(cls, *shapes: JobShape) -> Mix:
        """One kind."""
        return cls(((1.0, shapes),))

    def draw(self, rng: np.random.Generator) -> JobShape:
        """A job."""
        point = rng.random() * sum(weight for weight, _ in self.kinds)
        for weight, shapes in self.kinds:
            point -= weight
            if point < 0:
                return shapes[int(rng.random() * len(shapes))]
        return self.kinds[-1][1][0]  # rounding

    @property
    def output_tokens(self) -> float:
        """Of a job, on average."""
        return self._mean("output_tokens")

    @property
    def num_sequences(self) -> float:
        """Of a job, on average."""
        return self._mean("num_sequences")

    def _mean(self, name: str) -> float:
        total = sum(weight for weight, _ in self.kinds)
        means = (weight * float(np.mean([getattr(shape, name) for shape in shapes])) for weight, shapes in self.kinds)
        return sum(means) / total


@dataclass(frozen=True, slots=True)
class Poisson:
    """Jobs that arrive independently of each other.

    Attributes:
        rate: Jobs per second, above 0.
        mix: What they are.
    """

    rate: float
    mix: Mix

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise InvalidRequest("the rate of arrivals must be above 0 jobs per second", field="rate", value=self.rate)

    @property
    def ends_s(self) -> float:
        """Never."""
        return math.inf

    def jobs(self, rng: np.random.Generator) -> Iterator[Arrival]:
        """Without an end."""
        time = 0.0
        while True:
            time += float(rng.exponential(1 / self.rate))
            yield Arrival(time, self.mix.draw(rng))

    def faster(self, factor: float) -> Poisson:
        """At ``factor`` times the rate."""
        return Poisson(self.rate * factor, self.mix)


@dataclass(frozen=True, slots=True)
class Traced:
    """Jobs that arrive when the requests of a trace did.

    Each has the prompt of its request; what a shape of the mix writes is as much longer or shorter as the request's
    reply was than the trace's mean one.

    Attributes:
        trace: Requests.
        mix: What jobs do.
        speed: The trace runs so many times as fast.
    """

    trace: Trace
    mix: Mix
    speed: float = 1.0

    @property
    def ends_s(self) -> float:
        """With the trace."""
        return self.trace.duration_s / self.speed

    def jobs(self, rng: np.random.Generator) -> Iterator[Arrival]:
        """One for each request."""
        mean = float(np.mean(self.trace.output_tokens))
        rows = zip(self.trace.arrivals_s, self.trace.input_tokens, self.trace.output_tokens, strict=True)
        for time, prompt, output in rows:
            shape = self.mix.draw(rng).scaled(prompt_tokens=int(prompt), outputs=float(output) / mean)
            yield Arrival(float(time) / self.speed, shape)

    def faster(self, factor: float) -> Traced:
        """The trace so many times as fast."""
        return Traced(self.trace, self.mix, self.speed * factor)


@dataclass(frozen=True, slots=True)
class Given:
    """Jobs at known times, for a run that is to be predicted: whose arrivals are known and whose jobs are drawn.

    Attributes:
        times_s: Ascending.
        mix: What they are.
    """

    times_s: Sequence[float]
    mix: Mix

    @property
    def ends_s(self) -> float:
        """The last of them."""
        return max(self.times_s, default=0.0)

    def jobs(self, rng: np.random.Generator) -> Iterator[Arrival]:
        """One for each time."""
        return (Arrival(time, self.mix.draw(rng)) for time in self.times_s)

    def faster(self, factor: float) -> Given:
        """At times so many times as near."""
        return Given([time / factor for time in self.times_s], self.mix)
