"""A study: one system at several sizes and loads, each for several seeds; tables and plots are made of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from orchestrator.errors import InvalidRequest
from orchestrator.planning.simulation.arrivals import Arrivals, Mix, Poisson
from orchestrator.planning.simulation.experiment import Window, saturation_rate, simulate
from orchestrator.planning.simulation.outcome import Estimate, Outcome, PoolOutcome, estimate
from orchestrator.planning.simulation.system import SystemSpec

MAX_REPLICAS = 100_000
_ROUNDS = 7

Progress = Callable[[str, float], None]
"""Is told what is being run, and how much of all is done, from 0 to 1."""


def silent(_what: str, _done: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size at one load.

    Attributes:
        times: The fleet is so many times the one described.
        gpus: It has so many.
        load: Share of the saturation rate; NaN where that was not asked for.
        rate: Jobs per second that arrive, on average.
        outcomes: By seed.
    """

    times: int
    gpus: float
    load: float
    rate: float
    outcomes: tuple[Outcome, ...]

    def value(self, name: str, *, pool: str | None = None) -> Estimate:
        """A number of `Outcome`, or of one of its pools, over the seeds."""
        if pool is None:
            return estimate([float(getattr(one, name)) for one in self.outcomes])
        return estimate([float(getattr(one.pools[pool], name)) for one in self.outcomes])

    @property
    def is_steady(self) -> bool:
        """For most seeds."""
        return sum(one.is_steady for one in self.outcomes) * 2 > len(self.outcomes)

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """JSON values: each number as [mean, half the width of its 95% interval]."""
        names = [field.name for field in fields(Outcome) if field.name != "pools"]
        pools = {
            pool: {field.name: _pair(self.value(field.name, pool=pool)) for field in fields(PoolOutcome)}
            for pool in self.outcomes[0].pools
        }
        return {
            "times": self.times,
            "gpus": self.gpus,
            "load": None if math.isnan(self.load) else self.load,
            "rate": self.rate,
            "seeds": len(self.outcomes),
            "is_steady": self.is_steady,
            **{name: _pair(self.value(name)) for name in names},
            "pools": pools,
        }


def _pair(value: Estimate) -> list[float | None]:
    return [each if math.isfinite(each) else None for each in value]


def enlarged(spec: SystemSpec, times: int) -> SystemSpec:
    """So many times the replicas and the controllers.

    Raises:
        InvalidRequest: That is more than can be simulated.
    """
    pools = {name: replace(pool, num_replicas=pool.num_replicas * times) for name, pool in spec.pools.items()}
    most = max(pool.num_replicas for pool in pools.values())
    if times < 1 or most > MAX_REPLICAS:
        raise InvalidRequest(
            f"a fleet of {most:,} replicas cannot be simulated; 1 to {MAX_REPLICAS:,} can", field="times", value=times
        )
    controllers = replace(spec.controllers, num_controllers=spec.controllers.num_controllers * times)
    return replace(spec, pools=pools, controllers=controllers)


def study_loads(
    spec: SystemSpec,
    mix: Mix,
    loads: Sequence[float],
    window: Window,
    *,
    times: Sequence[int] = (1,),
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress = silent,
) -> tuple[float, list[Row]]:
    """Each size at shares of its saturation rate, which is found once, for the fleet as described.

    Returns:
        The saturation rate in jobs per second, and the rows.
    """
    progress("saturation", 0.0)
    rate = saturation_rate(spec, mix, seed=seeds[0])
    if not rate > 0:
        raise InvalidRequest("no job ended: the fleet cannot serve such jobs at all", field="mix")
    wanted = [(size, load, Poisson(rate * load * size, mix)) for size in times for load in loads]
    return rate, list(_rows(spec, wanted, window, seeds, progress))


def study_arrivals(
    spec: SystemSpec,
    arrivals: Arrivals,
    rate: float,
    window: Window,
    *,
    times: Sequence[int] = (1,),
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress = silent,
) -> list[Row]:
    """Each size under so many times the load.

    Args:
        spec: The fleet.
        arrivals: Its load.
        rate: Of that, jobs per second.
        window: What counts.
        times: Sizes.
        seeds: Of the runs.
        progress: Is told.
    """
    wanted = [(size, math.nan, arrivals if size == 1 else arrivals.faster(size)) for size in times]
    return [replace(row, rate=rate * row.times) for row in _rows(spec, wanted, window, seeds, progress)]


def rate_within(
    spec: SystemSpec,
    mix: Mix,
    window: Window,
    objectives: Mapping[str, float],
    *,
    most: float,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress = silent,
) -> float:
    """The highest rate at which a steady system keeps all objectives in the mean over seeds; 0 if none does.

    Args:
        spec: The fleet.
        mix: Its jobs.
        window: What counts.
        objectives: Name of a number of `Outcome`, such as ``job_p95_s`` -> the most it may be.
        most: The saturation rate.
        seeds: Of the runs.
        progress: Is told.
    """
    low, high = 0.0, most
    for turn in range(_ROUNDS):
        rate = (low + high) / 2
        progress(f"{rate:.3g} jobs/s", turn / _ROUNDS)
        outcomes = [simulate(spec, Poisson(rate, mix), window, seed=seed) for seed in seeds]
        row = Row(times=1, gpus=spec.gpus, load=rate / most, rate=rate, outcomes=tuple(outcomes))
        is_kept = row.is_steady and all(not row.value(name).mean > limit for name, limit in objectives.items())
        low, high = (rate, high) if is_kept else (low, rate)
    return low


def _rows(
    spec: SystemSpec,
    wanted: Sequence[tuple[int, float, Arrivals]],
    window: Window,
    seeds: Sequence[int],
    progress: Progress,
) -> Iterator[Row]:
    works = [size for size, _, _ in wanted for _ in seeds]
    done = 0
    for size, load, arrivals in wanted:
        larger = enlarged(spec, size)
        outcomes: list[Outcome] = []
        for seed in seeds:

            def tell(share: float, *, size: int = size, done: int = done) -> None:
                progress(f"{spec.gpus * size:g} GPUs", (done + share * size) / sum(works))

            outcomes.append(simulate(larger, arrivals, window, seed=seed, tell=tell))
            done += size
        rate = arrivals.rate if isinstance(arrivals, Poisson) else math.nan
        yield Row(times=size, gpus=larger.gpus, load=load, rate=rate, outcomes=tuple(outcomes))
