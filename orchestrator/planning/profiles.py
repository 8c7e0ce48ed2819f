"""Measured throughput, which wins over what is computed: rows of a CSV or JSON file.

    model,gpu,gpus,input_tokens,output_tokens,requests_per_s,ttft_s,tpot_s
    llama-3.1-8b,L4,1,1024,128,1.9,0.42,0.061

A row is what one replica did at one rate. Several rows of one size are a load curve; the largest rate whose latencies
keep the objectives counts. Latencies may be left out, for rows that were measured under the objectives.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.errors import InvalidRequest
from orchestrator.planning.capacity import Capacity, Limit, capacity
from orchestrator.planning.throughput import Deployment, StepTimes
from orchestrator.planning.workload import Objectives, Workload

NEAR = 4.0
"""A measurement speaks for requests whose input and output are within this factor of its own."""

_ANY = Objectives(ttft_s=1e6, tpot_s=1e6, quantile=0.5)


class Measurement(BaseModel):
    """A row.

    Attributes:
        model: Name of the model's shape.
        gpu: Name of the type in the catalogue.
        gpus: Of one replica.
        input_tokens: Of each request.
        output_tokens: Of each request.
        requests_per_s: That were served.
        ttft_s: At the quantile that objectives are for; None if it kept the objective.
        tpot_s: Mean; None if it kept the objective.
        source: Who measured it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    gpu: str = Field(min_length=1)
    gpus: int = Field(1, ge=1, le=1024)
    input_tokens: float = Field(ge=1, le=1e7)
    output_tokens: float = Field(ge=1, le=1e7)
    requests_per_s: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    ttft_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    tpot_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    source: str = ""

    @field_validator("ttft_s", "tpot_s", mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return None if value == "" else value

    def keeps(self, objectives: Objectives) -> bool:
        """Whether its latencies do."""
        return (self.ttft_s or 0.0) <= objectives.ttft_s and (self.tpot_s or 0.0) <= objectives.tpot_s


@dataclass(frozen=True, slots=True)
class Profiles:
    """All measurements."""

    rows: tuple[Measurement, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Profiles:
        """Of a CSV file, or of a JSON file that is a list (or an object with the list as ``profiles``).

        Raises:
            InvalidRequest: It cannot be read, or a row cannot be used; names row and column.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
            rows: Any = _json_rows(text) if text.lstrip()[:1] in {"[", "{"} else list(csv.DictReader(text.splitlines()))
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidRequest(f"cannot read {str(path)!r}: {reason}", field="profiles", value=str(path)) from error
        if not rows:
            raise InvalidRequest(f"{str(path)!r} has no measurements", field="profiles", value=str(path))
        return cls(tuple(_row(path, number, row) for number, row in enumerate(rows, 1)))

    def of(self, deployment: Deployment) -> tuple[Measurement, ...]:
        """Those of one way to run a replica."""
        wanted = (deployment.shape.name, deployment.gpu.name, deployment.gpus)
        return tuple(row for row in self.rows if (row.model, row.gpu, row.gpus) == wanted)


def _json_rows(text: str) -> Iterable[object]:
    data = json.loads(text)
    rows = data.get("profiles") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise ValueError("it is neither a list nor an object with a list named 'profiles'")  # noqa: TRY004  # a file
    return rows


def _row(path: Path, number: int, row: object) -> Measurement:
    try:
        return Measurement.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(map(str, first["loc"])) or "row"
        raise InvalidRequest(
            f"{str(path)!r}, measurement {number}, {column}: {first['msg']}", field=column, value=first.get("input")
        ) from error


def with_measurements(
    computed: Capacity, rows: Iterable[Measurement], times: StepTimes, workload: Workload, objectives: Objectives
) -> Capacity:
    """The capacity with what was measured near a kind of request in place of what was computed.

    Between sizes, the nearest measurement (by the ratio of lengths) is carried over in proportion to the rates that are
    computed without objectives for its size and for the one that is asked for.
    """
    best: dict[tuple[float, float], float] = {}
    for row in rows:
        size = (row.input_tokens, row.output_tokens)
        best[size] = max(best.get(size, 0.0), row.requests_per_s if row.keeps(objectives) else 0.0)
    if not best:
        return computed
    sizes = np.array(list(best))
    measured = np.array(list(best.values()))
    wanted = np.stack([workload.input_tokens, workload.output_tokens], axis=1)
    distance = np.abs(np.log(wanted[:, None, :] / sizes[None, :, :])).max(axis=2)
    nearest = distance.argmin(axis=1)
    is_near = distance[np.arange(len(workload)), nearest] <= np.log(NEAR)
    points = Workload.of_lengths(sizes[:, 0], sizes[:, 1], rate=1.0)
    free_here = capacity(times, workload, _ANY).rates
    free_there = capacity(times, points, _ANY).rates[nearest]
    carried = np.where(free_there > 0, free_here / np.maximum(free_there, 1e-12), 1.0) * measured[nearest]
    return replace(
        computed,
        rates=np.where(is_near, carried, computed.rates),
        limits=tuple(Limit.MEASURED if near else limit for near, limit in zip(is_near, computed.limits, strict=True)),
        is_measured=is_near,
    )
