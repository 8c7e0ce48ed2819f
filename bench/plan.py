"""What plans come out for public traces: ``python -m orchestrator.bench.plan --code FILE --conv FILE --mooncake FILE``.

Costs of the mix beside those of single types of GPU, under tight and loose objectives, at 1 to 32 times the rate, with
fan-out, and in the setting of Melange's evaluation. Throughput is idealised throughout: no GPU was measured. Writes
`plan.json` and `plan.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.errors import CallerError
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.demand import FanOut
from orchestrator.planning.plan import Plan, PlanRequest, make_plan
from orchestrator.planning.shapes import ModelShape, open_shape
from orchestrator.planning.traces import read_trace, trace_of
from orchestrator.planning.workload import Lengths, Objectives, Workload, described, of_trace

MODEL = "llama-3.1-8b"
GOALS = {
    "tight": Objectives(ttft_s=0.5, tpot_s=0.03),
    "medium": Objectives(ttft_s=1.0, tpot_s=0.1),
    "loose": Objectives(ttft_s=5.0, tpot_s=0.2),
    "very loose": Objectives(ttft_s=30.0, tpot_s=0.5),
}
FACTORS = (1, 2, 4, 8, 16, 32)
WIDTHS = (1, 4, 16, 64)
_PAPER_RATES = (1, 2, 4, 8, 16, 32)
_PAPER_TPOTS_S = (0.04, 0.12)
_PAPER_GPUS = ("L4", "A10G", "A100-80", "H100")
_CONTEXT = 32_768
_ROWS = 1_000_000
Row = dict[str, Any]  # Any: JSON values


def planned(request: PlanRequest, **labels: object) -> Row:
    """A plan as a row; a load that no fleet serves gives the reason."""
    start, cpu = time.perf_counter(), time.process_time()
    try:
        plan = make_plan(request)
    except CallerError as error:
        return {
            **labels,
            "queries_per_s": request.queries.rate,
            "usd_per_hour": None,
            "reason": error.message,
        }
    return {
        **labels,
        "queries_per_s": request.queries.rate,
        "usd_per_hour": plan.usd_per_hour,
        "replicas": _replicas(plan),
        "best_single": None if plan.best_single is None else plan.best_single.name,
        "best_single_usd": None if plan.best_single is None else plan.best_single.usd_per_hour,
        "saving_on_best": plan.saving(plan.best_single),
        "singles": {single.name: single.usd_per_hour for single in plan.singles},
        "unrouted_usd": plan.unrouted.usd_per_hour,
        "gap": plan.mix.gap,
        "solve_s": plan.mix.seconds,
        "plan_s": time.perf_counter() - start,
        "plan_cpu_s": time.process_time() - cpu,
    }


def _replicas(plan: Plan) -> str:
    parts = []
    for role in plan.roles:
        kinds = [
            f"{count} x {kind.gpu}" if kind.gpus == 1 else f"{count} x ({kind.gpus} x {kind.gpu})"
            for kind, count in role.replicas.items()
        ]
        parts.append((f"{role.role}: " if len(plan.roles) > 1 else "") + ", ".join(kinds))
    return "; ".join(parts)


def objectives_rows(loads: Mapping[str, Workload], catalogue: Catalogue) -> list[Row]:
    """Each trace under each objective."""
    shape = {"small": open_shape(MODEL)}
    return [
        planned(
            PlanRequest(queries=load, shapes=shape, catalogue=catalogue, objectives=goal), trace=name, objectives=label
        )
        for name, load in loads.items()
        for label, goal in GOALS.items()
    ]


def rate_rows(loads: Mapping[str, Workload], catalogue: Catalogue) -> list[Row]:
    """Each trace at multiples of its rate."""
    shape = {"small": open_shape(MODEL)}
    return [
        planned(
            PlanRequest(queries=load.scaled(factor), shapes=shape, catalogue=catalogue, objectives=GOALS["loose"]),
            trace=name,
            factor=factor,
        )
        for name, load in loads.items()
        for factor in FACTORS
    ]


def paper_rows(loads: Mapping[str, Workload], catalogue: Catalogue) -> list[Row]:
    """Melange's setting: Llama-2-7B, four types that are rented one by one, only a TPOT objective, no headroom."""
    shape: dict[str, ModelShape] = {"small": replace(open_shape("llama-2-7b"), context=_CONTEXT)}
    rows = []
    for name, load in loads.items():
        short = load.within(_CONTEXT).merged()
        for tpot_s in _PAPER_TPOTS_S:
            for rate in _PAPER_RATES:
                request = PlanRequest(
                    queries=short.scaled(rate / short.rate),
                    shapes=shape,
                    catalogue=one_by_one(catalogue.only(_PAPER_GPUS)),
                    objectives=Objectives(ttft_s=1e5, tpot_s=tpot_s),
                    headroom=0.0,
                    max_gpus=1,
                )
                rows.append(planned(request, trace=name, tpot_s=tpot_s, rate=rate))
    return rows


def one_by_one(catalogue: Catalogue) -> Catalogue:
    """The same with every GPU to be had alone, at its share of the price of its cheapest node."""
    gpus = {}
    for name, gpu in catalogue.gpus.items():
        offer = gpu.offers[0].model_copy(update={"name": name, "gpus": 1, "usd_per_hour": gpu.usd_per_gpu_hour})
        gpus[name] = gpu.model_copy(update={"offers": (offer,)})
    return catalogue.model_copy(update={"gpus": gpus})


def fan_out_rows(catalogue: Catalogue) -> list[Row]:
    """One described load of reasoning queries, by policy and width."""
    queries = described(Lengths(300, 0.6), Lengths(900, 0.6), rate=2.0).within(8000).merged()
    shapes = {"small": open_shape("qwen2.5-7b"), "verifier": open_shape(MODEL), "large": open_shape("qwen2.5-72b")}
    rows = []
    for policy, steps in (("self_consistency", 1), ("best_of_n", 1), ("beam_search", 8), ("cascade", 1)):
        for width in WIDTHS:
            request = PlanRequest(
                queries=queries,
                shapes=shapes,
                catalogue=catalogue,
                objectives=GOALS["loose"],
                fan_out=FanOut(policy=policy, width=width, steps=steps),
            )
            rows.append(planned(request, policy=policy, width=width, steps=steps))
    return rows


def large_trace_row(catalogue: Catalogue) -> Row:
    """A million requests, drawn here, through the same steps as a file's."""
    rng = np.random.default_rng(6)
    arrivals = np.sort(rng.uniform(0, 1e5, _ROWS))
    inputs, outputs = (np.ceil(rng.lognormal(mean, 1.0, _ROWS)).clip(1, 60_000) for mean in (6.0, 5.0))
    start, cpu = time.perf_counter(), time.process_time()
    trace = trace_of(arrivals.tolist(), inputs.astype(int).tolist(), outputs.astype(int).tolist())
    load = of_trace(trace).merged()
    facts = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "rows": len(trace)}
    request = PlanRequest(
        queries=load, shapes={"small": open_shape(MODEL)}, catalogue=catalogue, objectives=GOALS["very loose"]
    )
    return {**planned(request, trace="drawn"), **facts}


def _usd(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _dearest(row: Row) -> float | None:
    return max((cost for cost in row["singles"].values() if cost is not None), default=None)


def _cells(row: Row) -> list[str]:
    if row["usd_per_hour"] is None:
        return ["none, see below", "-", "-", "-", "-", "-", "-"]
    dearest = _dearest(row)
    on_dearest = None if dearest is None else 1 - row["usd_per_hour"] / dearest
    proof = "yes" if row["gap"] == 0 else f"within {row['gap']:.1%}"
    return [
        row["replicas"],
        _usd(row["usd_per_hour"]),
        "none can" if row["best_single"] is None else f"{row['best_single']}: {_usd(row['best_single_usd'])}",
        _share(row["saving_on_best"]),
        _share(on_dearest),
        _usd(row["unrouted_usd"]),
        f"{row['plan_cpu_s']:.2f} ({proof})",
    ]


_HEAD = (
    "replicas",
    "$/h",
    "best single type, $/h",
    "cheaper than it by",
    "than the dearest by",
    "not routed by size, $/h",
    "CPU s (proven)",
)


def page(result: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    paper = result["paper"]
    savings = [row["saving_on_best"] for row in paper if row.get("saving_on_best") is not None]
    dearest = [1 - row["usd_per_hour"] / _dearest(row) for row in paper if row["usd_per_hour"] and _dearest(row)]
    large = result["large"]
    lines = [
        "# Plans",
        "",
        "What `ttc plan` makes of public traces: the Azure LLM inference traces of 2023 (code and conversation) and",
        "Mooncake's conversation trace (4,000 requests of it). Costs are list prices of GPU nodes "
        f"({result['prices']}).",
        "**Throughput is idealised (a roofline with stated shares of peak); no GPU was measured for this page.**",
        "Ratios say how much a mix can save if the roofline's ratios between GPUs hold. CPU seconds are of everything:",
        "capacities, the mix, the plans with one type, and the one that is not routed by size. Made by",
        "`python -m orchestrator.bench.plan`.",
        "",
        f"## Objectives ({MODEL}, busy minutes of each trace, 20 % headroom)",
        "",
        "; ".join(f"{name}: TTFT {goal.ttft_s:g} s for 90 %, TPOT {goal.tpot_s:g} s" for name, goal in GOALS.items())
        + ".",
        "",
        *table(
            ("trace", "objectives", "queries/s", *_HEAD),
            [
                (row["trace"], row["objectives"], f"{row['queries_per_s']:.2f}", *_cells(row))
                for row in result["objectives"]
            ],
        ),
        "",
        *(
            f"- {row['trace']}, {row['objectives']}: {row['reason']}"
            for row in result["objectives"]
            if row["usd_per_hour"] is None
        ),
        "",
        "## Rates (loose objectives)",
        "",
        *table(("trace", "times the rate", *_HEAD), [(r["trace"], r["factor"], *_cells(r)) for r in result["rates"]]),
        "",
        "## In the setting of Melange's evaluation",
        "",
        "Llama-2-7B (its context taken as 32,768), L4, A10G, A100-80 and H100, each to be rented alone at its share of",
        "the price of a node, a TPOT objective of 40 or 120 ms and none for TTFT, no headroom, 1 to 32 requests/s. The",
        "lengths are those of our traces, the throughput is idealised; the paper measured both on Chatbot Arena and",
        "PubMed, and reports 2 to 77 % below single-type fleets. Here the mix is "
        f"{min(savings):.1%} to {max(savings):.1%} below the best single type, and {min(dearest):.1%} to "
        f"{max(dearest):.1%} below the dearest one that can serve the load.",
        "",
        *table(
            ("trace", "TPOT s", "requests/s", *_HEAD),
            [(row["trace"], row["tpot_s"], row["rate"], *_cells(row)) for row in paper],
        ),
        "",
        "## Fan-out (2 queries/s of about 300 + 900 tokens; small Qwen2.5-7B, scored by an 8B model, large 72B)",
        "",
        *table(
            ("policy", "width", "steps", *_HEAD),
            [(row["policy"], row["width"], row["steps"], *_cells(row)) for row in result["fan_out"]],
        ),
        "",
        "## A million requests",
        "",
        f"{large['rows']:,} requests were checked, sorted and put into buckets in {large['cpu_s']:.1f} s of CPU time,",
        f"and planned for in {large['plan_cpu_s']:.1f} s.",
        "",
        "That costs equal those of brute force on small cases, and never fall when the load grows, is tested",
        "(`tests/unit/orchestrator/planning/test_mix.py`).",
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Plans for all and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("code", "conv", "mooncake"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    given = parser.parse_args()
    facts, catalogue = machine(), Catalogue.default()
    files = {"Azure code": given.code, "Azure conversation": given.conv, "Mooncake": given.mooncake}
    loads = {name: of_trace(read_trace(path)).within(131_072).merged() for name, path in files.items()}
    result = {
        "machine": facts,
        "prices": f"{catalogue.source}, {catalogue.date}",
        "objectives": objectives_rows(loads, catalogue),
        "rates": rate_rows(loads, catalogue),
        "paper": paper_rows({name: load for name, load in loads.items() if name != "Mooncake"}, catalogue),
        "fan_out": fan_out_rows(catalogue),
        "large": large_trace_row(catalogue),
    }
    write(given.out, "plan", result, page(result))


if __name__ == "__main__":
    main()
