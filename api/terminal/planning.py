"""``ttc plan`` in the terminal: its options as a request, its answer as tables and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.api.terminal.console import result_console
from orchestrator.errors import InvalidRequest
from orchestrator.planning.alternatives import Alternative
from orchestrator.planning.artefacts import cluster_yaml, entry_name, fleet_toml, plan_json
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.demand import FanOut
from orchestrator.planning.plan import Drafting, Plan, PlanRequest
from orchestrator.planning.profiles import Profiles
from orchestrator.planning.shapes import ModelShape, open_shape
from orchestrator.planning.throughput import Assumptions
from orchestrator.planning.traces import read_trace
from orchestrator.planning.workload import Lengths, Objectives, Workload, described, of_trace

if TYPE_CHECKING:
    from rich.table import Table

_ROLES = ("small", "large", "verifier")
Options = Mapping[str, Any]  # Any: click's values, by option


class Asked(NamedTuple):
    """What is asked, and what people should know of how it was read."""

    request: PlanRequest
    notes: tuple[str, ...]


def ask(options: Options) -> Asked:
    """The request that options make.

    Raises:
        InvalidRequest: One cannot be used, or some are missing; names it.
    """
    shapes = _shapes(options)
    fan_out = FanOut(
        policy=options["policy"],
        width=options["width"],
        steps=options["steps"],
        escalation=options["escalate"],
        prefix_hits=1.0 if options["prefix_hits"] is None else options["prefix_hits"],
    )
    catalogue = Catalogue.default() if options["gpu_file"] is None else Catalogue.read(options["gpu_file"])
    if options["gpu_names"]:
        catalogue = catalogue.only(options["gpu_names"])
    queries, notes = _queries(options)
    if options["over_context"] == "drop":
        queries, dropped = _dropped(queries, [shapes[role] for role in fan_out.roles if role in shapes])
        notes += dropped
    request = PlanRequest(
        queries=queries.merged(),
        shapes=shapes,
        catalogue=catalogue,
        objectives=Objectives(ttft_s=options["ttft"], tpot_s=options["tpot"], quantile=options["quantile"]),
        fan_out=fan_out,
        assumed=Assumptions.parse(options["assume"]),
        profiles=Profiles() if options["profiles"] is None else Profiles.read(options["profiles"]),
        headroom=options["headroom"],
        slices=options["slices"],
        caps=dict(_cap(text) for text in options["caps"]),
        least=options["at_least"],
        max_gpus=options["max_gpus"],
        drafting=_drafting(options),
        node_limit=options["node_limit"],
    )
    return Asked(request, tuple(notes))


def _queries(options: Options) -> tuple[Workload, list[str]]:
    lengths = [options["input_tokens"], options["output_tokens"]]
    if options["trace"] is not None:
        if any(lengths):
            raise InvalidRequest(
                "--trace says how long requests are; leave --input-tokens and --output-tokens away", field="trace"
            )
        trace = read_trace(options["trace"])
        queries = of_trace(
            trace,
            rate=options["rate"],
            scale=options["scale"],
            window_s=options["window"],
            busy=options["busy"],
            prefix_hits=options["prefix_hits"] or 0.0,
        )
        return queries, list(trace.notes)
    if options["rate"] is None or not all(lengths):
        raise InvalidRequest(
            "say what has to be served: --trace FILE, or --rate R --input-tokens N --output-tokens N", field="trace"
        )
    inputs = Lengths.parse(lengths[0], field="input-tokens")
    outputs = Lengths.parse(lengths[1], field="output-tokens")
    return described(inputs, outputs, rate=options["rate"] * options["scale"]), []


def _dropped(queries: Workload, shapes: list[ModelShape]) -> tuple[Workload, list[str]]:
    context = min(shape.context for shape in shapes)
    kept = queries.within(context - 1)
    if len(kept) == len(queries):
        return queries, []
    share = 1.0 - kept.rate / queries.rate
    longest = int(queries.longest_total.max())
    return kept, [f"{share:.2%} of the queries are longer than {context:,} tokens (up to {longest:,}) and are left out"]


def _shapes(options: Options) -> dict[str, ModelShape]:
    if not options["models"]:
        raise InvalidRequest("name a model: --model llama-3.1-8b (ttc plan models lists names)", field="model")
    weight_bytes, kv_bytes = (
        None if options[name] is None else _bits(name, options[name]) / 8 for name in ("weight_bits", "kv_bits")
    )
    shapes: dict[str, ModelShape] = {}
    for text in options["models"]:
        role, is_named, name = text.partition("=")
        role, name = (role, name) if is_named else ("small", text)
        if role not in _ROLES:
            raise InvalidRequest(
                f"--model {text}: there is no role {role!r} to plan for; roles: {', '.join(_ROLES)}",
                field="model",
                value=text,
            )
        if role in shapes:
            raise InvalidRequest(f"--model names {role} twice", field="model", value=text)
        shapes[role] = open_shape(name, weight_bytes=weight_bytes, kv_bytes=kv_bytes)
    return shapes


def _bits(name: str, value: float) -> float:
    if not 1 <= value <= 32:
        option = name.replace("_", "-")
        raise InvalidRequest(f"--{option} {value:g} must be from 1 to 32", field=option, value=value)
    return value


def _cap(text: str) -> tuple[str, int]:
    gpu, _, count = text.partition("=")
    if not count.isdecimal() or len(count) > 9:
        raise InvalidRequest(f"--cap must be GPU=N, for instance H100=16, not {text!r}", field="cap", value=text)
    return gpu, int(count)


def _drafting(options: Options) -> Drafting | None:
    if options["draft"] is None:
        return None
    shape = None if options["draft"] == "ngram" else open_shape(options["draft"])
    return Drafting(shape=shape, acceptance=options["acceptance"])


def write_files(plan: Plan, folder: Path | None, *, is_overwriting: bool) -> list[Path]:
    """The plan's files.

    Raises:
        InvalidRequest: One is there already, or they cannot be written.
    """
    if folder is None:
        return []
    texts = {
        "fleet.toml": fleet_toml(plan),
        "ray_cluster.yaml": cluster_yaml(plan),
        "plan.json": json.dumps(plan_json(plan), indent=2) + "\n",
    }
    there = [name for name in texts if (folder / name).exists()]
    if there and not is_overwriting:
        raise InvalidRequest(
            f"{', '.join(there)} in {str(folder)!r} would be replaced; name another folder, or add --overwrite",
            field="out",
            value=str(folder),
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"cannot write to {str(folder)!r}: {error.strerror}", field="out", value=str(folder)
        ) from error
    return [folder / name for name in texts]


def tables(plan: Plan, notes: tuple[str, ...]) -> None:
    """Prints the plan for people."""
    console = result_console()
    request, goals = plan.request, plan.request.objectives
    console.print(
        f"{request.queries.rate:,.2f} queries/s of {request.queries.name}, policy {request.fan_out.policy}; "
        f"TTFT {goals.ttft_s:g} s for {goals.quantile:.0%}, TPOT {goals.tpot_s:g} s"
    )
    for note in notes:
        console.print(f"note: {note}")
    console.print()
    console.print(_replica_table(plan))
    console.print()
    console.print(_node_table(plan))
    console.print()
    console.print(_cost_table(plan))
    console.print()
    proof = "proven cheapest" if plan.mix.gap == 0 else f"another mix may be up to {plan.mix.gap:.1%} cheaper"
    console.print(f"{proof} under these assumptions; solved in {plan.mix.seconds:.2f} s")
    console.print("assumed:")
    for line in plan.assumptions:
        console.print(f"- {line}")


def _table(*columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False)


def _replica_table(plan: Plan) -> Table:
    table = _table("entry", "model", "replicas", "on", "requests/s", "busy", "sequences", "drafts (sequences: tokens)")
    for role in plan.roles:
        for kind, count in role.replicas.items():
            drafts = ", ".join(f"{d.first}-{d.last}: {d.tokens}" for d in role.drafts.get(kind, ())) or "-"
            place = kind.gpu if kind.gpus == 1 else f"{kind.gpus} x {kind.gpu}"
            table.add_row(
                entry_name(role, kind),
                role.shape.name,
                str(count),
                place,
                f"{role.rate(kind):,.2f}",
                f"{role.loads[kind]:.0%}",
                str(role.concurrency(kind)),
                drafts,
            )
    return table


def _node_table(plan: Plan) -> Table:
    table = _table("node", "GPUs", "count", "$/h")
    for (gpu, name), count in plan.mix.nodes.items():
        (offer,) = [offer for offer in plan.request.catalogue.gpus[gpu].offers if offer.name == name]
        table.add_row(name, f"{offer.gpus} x {gpu}", str(count), f"{offer.usd_per_hour * count:,.2f}")
    table.add_row("all", "", str(sum(plan.mix.nodes.values())), f"{plan.usd_per_hour:,.2f}")
    return table


def _cost_table(plan: Plan) -> Table:
    table = _table("plan", "$/h", "this plan is cheaper by", "")
    table.add_row("this plan", f"{plan.usd_per_hour:,.2f}", "", "")
    singles = sorted(plan.singles, key=lambda single: single.usd_per_hour or float("inf"))
    for other in (*singles, plan.unrouted):
        name = other.name if other is plan.unrouted else f"only {other.name}"
        table.add_row(name, *_cost(plan, other), other.reason)
    return table


def _cost(plan: Plan, other: Alternative) -> tuple[str, str]:
    saving = plan.saving(other)
    return (
        ("-", "-") if other.usd_per_hour is None or saving is None else (f"{other.usd_per_hour:,.2f}", f"{saving:.1%}")
    )
