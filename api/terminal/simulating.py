"""``ttc plan simulate`` in the terminal: its options as a study, its progress, its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.api.terminal.console import result_console
from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import read_fleet
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.simulation.arrivals import Mix, Poisson, Traced
from orchestrator.planning.simulation.controllers import ControllerSpec
from orchestrator.planning.simulation.experiment import Window, lone_time
from orchestrator.planning.simulation.live import Task, record_shapes
from orchestrator.planning.simulation.outcome import Estimate
from orchestrator.planning.simulation.paper import Paper, open_shapes
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.script import Solutions
from orchestrator.planning.simulation.study import Progress, Row, enlarged, rate_within, study_arrivals, study_loads
from orchestrator.planning.simulation.system import SystemSpec
from orchestrator.planning.throughput import Assumptions
from orchestrator.planning.traces import read_trace
from orchestrator.planning.workload import Lengths

Options = Mapping[str, Any]  # Any: click's values, by option

_UNSCORED = {
    "single", "self_consistency", "adaptive_consistency", "early_stopping", "budget_forcing", "cascade",
    "tree_of_thoughts",
}  # fmt: skip
"""Policies that need no verifier; the others are given process rewards."""
_MOST_SEEDS = 100
_TRACE_S = 1e7
"""Longer than any trace: its own end counts."""
_SHORTEST_S, _DURATION, _WARMUP = 60.0, 24.0, 8.0
"""Of a run: seconds, and times the duration of a lone job; a job in a full batch takes some times that."""


class Kind(NamedTuple):
    """Jobs of one kind, as ``--policy`` says."""

    policy: str
    params: dict[str, Any]  # Any: numbers and texts
    weight: float


@dataclass(frozen=True, slots=True)
class Study:
    """What came of it.

    Attributes:
        rows: By size and load.
        saturation: Jobs per second of the fleet as described; NaN where it was not asked for.
        within: Jobs per second within the objectives; NaN where none were given.
        spec: The fleet.
        mix: The jobs.
        notes: What is to be known of it.
    """

    rows: tuple[Row, ...]
    saturation: float
    within: float
    spec: SystemSpec
    mix: Mix
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """JSON values."""
        return {
            "gpus": self.spec.gpus,
            "usd_per_hour": self.spec.usd_per_hour,
            "saturation_jobs_per_s": _number(self.saturation),
            "jobs_per_s_within_objectives": _number(self.within),
            "output_tokens_per_job": self.mix.output_tokens,
            "sequences_per_job": self.mix.num_sequences,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def run_study(options: Options, progress: Progress) -> Study:
    """Records the jobs' shapes, then simulates.

    Raises:
        InvalidRequest: An option cannot be used; names it.
    """
    kinds = [parse_kind(text) for text in options["policies"]]
    spec = fleet_of(options)
    _check_roles(spec, kinds)
    seeds = tuple(range(_within(options["seeds"], "seeds", 1, _MOST_SEEDS)))
    sizes = [int(size) for size in _numbers(options["times"], "times", whole=True)]
    for size in sizes:
        enlarged(spec, size)
    mix = _mix(spec, kinds, options, progress)
    window = _window(options, lone_s=lone_time(spec, mix))
    objectives = {name: options[name] for name in ("job_p95_s", "ttft_p95_s", "tpot_p95_s") if options[name]}
    saturation = within = math.nan
    if options["trace"] is not None:
        trace = read_trace(options["trace"])
        speed = options["scale"]
        arrivals = Traced(trace, mix, speed)
        rows = study_arrivals(
            spec, arrivals, trace.mean_rate * speed, window, times=sizes, seeds=seeds, progress=progress
        )
    elif options["rate"] is not None:
        rate = float(options["rate"]) * options["scale"]
        rows = study_arrivals(spec, Poisson(rate, mix), rate, window, times=sizes, seeds=seeds, progress=progress)
    else:
        loads = _numbers(options["load"], "load")
        saturation, rows = study_loads(spec, mix, loads, window, times=sizes, seeds=seeds, progress=progress)
    if objectives:
        if math.isnan(saturation):
            raise InvalidRequest("objectives need --load, not --rate or --trace", field="job_p95")
        within = rate_within(spec, mix, window, objectives, most=saturation, seeds=seeds, progress=progress)
    return Study(tuple(rows), saturation, within, spec, mix, tuple(_notes(options, rows)))


def parse_kind(text: str) -> Kind:
    """Of ``NAME[:KEY=VALUE,...][@WEIGHT]``.

    Raises:
        InvalidRequest: It cannot be read.
    """
    head, _, weight_text = text.rpartition("@") if "@" in text else (text, "", "1")
    name, _, listed = head.partition(":")
    try:
        weight = float(weight_text)
        pairs = [pair.split("=", 1) for pair in listed.split(",") if pair]
        params = {key.strip(): _value(value.strip()) for key, value in pairs}
        is_read = bool(name) and 0 < weight < math.inf
    except ValueError:
        is_read = False
    if not is_read:
        raise InvalidRequest(
            f"cannot read --policy {text!r}; write NAME, NAME:n=8,temperature=0.7 or NAME:n=8@0.3 (its share)",
            field="policy",
            value=text,
        )
    return Kind(name, params, weight)


def _value(text: str) -> Any:  # Any: what a parameter may be
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def fleet_of(options: Options) -> SystemSpec:
    """The fleet that is simulated: a fleet file's, or one of models on GPUs.

    Raises:
        InvalidRequest: The options describe none.
    """
    catalogue = Catalogue.default() if options["gpu_file"] is None else Catalogue.read(options["gpu_file"])
    shapes = open_shapes(dict(_pair(text, "shape") for text in options["shapes"]))
    paper = Paper(catalogue=catalogue, assumed=Assumptions.parse(options["assume"]), shapes=shapes)
    controllers = ControllerSpec(
        num_controllers=_within(options["controllers"], "controllers", 1, 100_000),
        sequence_s=options["controller_ms"] / 1e3,
        call_s=options["controller_ms"] / 1e3,
    )
    if options["fleet"] is not None:
        if options["models"]:
            raise InvalidRequest("give either --fleet or --model, not both", field="model")
        return paper.fleet(read_fleet(options["fleet"]), controllers=controllers)
    gpu = catalogue.gpu(options["gpu"])
    models = dict(_role_of(text) for text in options["models"] or ("qwen2.5-7b",))
    replicas = dict(_role_of(text) for text in options["replicas"] or ("1",))
    per_replica = options["gpus_per_replica"]
    pools: dict[str, PoolSpec] = {}
    for role, model in models.items():
        number = replicas.get(role, "1")
        if not number.isdigit() or int(number) < 1:
            raise InvalidRequest(f"--replicas {role}={number}: write a whole number from 1", field="replicas")
        pools[role] = PoolSpec(
            replica=paper.replica(open_shape(model), gpu, per_replica),
            num_replicas=int(number),
            usd_per_hour=gpu.usd_per_gpu_hour * per_replica,
            gpus_per_replica=per_replica,
        )
    return SystemSpec(pools=pools, controllers=controllers)


def _role_of(text: str) -> tuple[str, str]:
    role, equals, value = text.partition("=")
    return (role, value) if equals else ("small", text)


def _pair(text: str, field: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidRequest(f"--{field} {text!r} must be NAME=VALUE", field=field, value=text)
    return name, value


def _check_roles(spec: SystemSpec, kinds: Sequence[Kind]) -> None:
    """A fleet without a small model, or without the verifier that a policy asks, cannot do the jobs."""
    spec.pool_of("small")
    for kind in kinds:
        if kind.policy not in _UNSCORED and not {"verifier"} & {*spec.pools, *spec.roles}:
            raise InvalidRequest(
                f"policy {kind.policy!r} asks a reward model, and the fleet has none; add --model verifier=MODEL, "
                "or a model with the role verifier",
                field="model",
            )


def _mix(spec: SystemSpec, kinds: Sequence[Kind], options: Options, progress: Progress) -> Mix:
    look = Solutions(
        lengths=Lengths.parse(options["output_tokens"], field="output_tokens"),
        steps=options["steps"],
        agreement=options["agreement"],
    )
    recorded = []
    number = _within(options["recorded"], "recorded", 1, 10_000)
    for place, kind in enumerate(kinds):
        progress(f"recording {kind.policy}", place / len(kinds))
        task = Task(
            policy=kind.policy,
            params=kind.params,
            verifier=None if kind.policy in _UNSCORED else "process_reward",
            prompt_tokens=options["prompt_tokens"],
            solutions={"small": look},
        )
        recorded.append((kind.weight, record_shapes(spec, task, num_jobs=number)))
    return Mix(tuple(recorded))


def _window(options: Options, *, lone_s: float) -> Window:
    """As asked, else long enough for queues to settle: some times what a job takes that is alone."""
    warmup, duration = options["warmup"], options["duration"]
    if duration is None:
        duration = max(_SHORTEST_S, _DURATION * lone_s) if options["trace"] is None else _TRACE_S
    if warmup is None:
        warmup = min(_WARMUP * lone_s, duration / 3) if options["trace"] is None else 0.0
    if not 0 < duration <= _TRACE_S or not 0 <= warmup < duration:
        raise InvalidRequest(
            f"--duration {duration:g} s and --warmup {warmup:g} s: the warm-up must be shorter", field="duration"
        )
    return Window(duration_s=duration, warmup_s=warmup, drain_s=2 * duration)


def _numbers(text: str, field: str, *, whole: bool = False) -> list[float]:
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1e5 for value in values) or (whole and any(value % 1 for value in values)):
        kind = "whole numbers" if whole else "numbers"
        raise InvalidRequest(f"--{field} {text!r} must be {kind} above 0, for instance 1,10", field=field, value=text)
    return values


def _within(value: int, field: str, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidRequest(f"{field} = {value} must be from {low} to {high:,}", field=field, value=value)
    return value


def _notes(options: Options, rows: Sequence[Row]) -> list[str]:
    notes = [
        "On paper: steps take what a roofline says, see --assume; hold it against a small real run before you buy.",
    ]
    if any(not row.is_steady for row in rows):
        notes.append(
            "Where a load is not steady, times grow with --duration: they say how long, not how long for ever."
        )
    if options["seeds"] == 1:
        notes.append("One seed has no interval; --seeds 5 gives one.")
    return notes


# -- tables ------------------------------------------------------------------------------------------------------------


def print_study(study: Study) -> None:
    """Tables on stdout."""
    from rich.table import Table

    console = result_console()
    console.print(
        f"{study.spec.gpus:g} GPUs, ${study.spec.usd_per_hour:,.2f} an hour; a job has "
        f"{study.mix.num_sequences:.1f} sequences and {study.mix.output_tokens:,.0f} output tokens."
    )
    if math.isfinite(study.saturation):
        console.print(f"Saturation: {study.saturation:.3g} jobs/s.")
    if math.isfinite(study.within):
        console.print(f"Within the objectives: {study.within:.3g} jobs/s.")
    table = Table(box=None, pad_edge=False)
    heads = (
        "GPUs",
        "load",
        "jobs/s in",
        "jobs/s out",
        "job p50, s",
        "job p95, s",
        "TTFT p95, s",
        "ms/token",
        "$/1000 jobs",
    )
    for head in (*heads, "keeps up"):
        table.add_column(head, justify="right")
    for row in study.rows:
        load = "" if math.isnan(row.load) else f"{row.load:.0%}"
        tpot = row.value("tpot_mean_s")
        table.add_row(
            f"{row.gpus:g}",
            load,
            f"{row.rate:.3g}",
            _cell(row.value("throughput")),
            _cell(row.value("job_p50_s")),
            _cell(row.value("job_p95_s")),
            _cell(row.value("ttft_p95_s")),
            _cell(Estimate(1e3 * tpot.mean, 1e3 * tpot.half_width)),
            _cell(row.value("usd_per_1000_jobs")),
            "yes" if row.is_steady else "no",
        )
    console.print(table)
    console.print(_pool_table(study.rows))
    for note in study.notes:
        console.print(note)


def _pool_table(rows: Sequence[Row]) -> Any:  # Any: a rich table
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head in ("GPUs", "load", "model", "busy", "batch", "KV", "cache hits", "tokens/s", "waiting", "preempted"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for row in rows:
        for pool in row.outcomes[0].pools:
            table.add_row(
                f"{row.gpus:g}",
                "" if math.isnan(row.load) else f"{row.load:.0%}",
                pool,
                f"{row.value('busy', pool=pool).mean:.0%}",
                f"{row.value('batch', pool=pool).mean:.1f}",
                f"{row.value('kv', pool=pool).mean:.0%}",
                f"{row.value('hits', pool=pool).mean:.0%}",
                f"{row.value('written_per_s', pool=pool).mean:,.0f}",
                f"{row.value('queued', pool=pool).mean:.1f}",
                f"{row.value('preemptions', pool=pool).mean:,.0f}",
            )
    return table


def _cell(value: Estimate) -> str:
    if not math.isfinite(value.mean):
        return "-"
    return f"{value.mean:.3g}" + (f" ± {value.half_width:.2g}" if math.isfinite(value.half_width) else "")


class TerminalProgress:
    """One line on stderr, where that is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _tell(self, what: str, done: float) -> None:
        self._bar.update(self._task, description=what, completed=done)


def check_path(path: Path | None, field: str) -> None:
    """A file that is to be written has a folder, before minutes of work.

    Raises:
        InvalidRequest: It has not.
    """
    if path is not None and not path.resolve().parent.is_dir():
        raise InvalidRequest(f"--{field} {str(path)!r}: there is no folder {str(path.parent)!r}", field=field)
