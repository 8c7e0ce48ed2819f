"""``ttc plan simulate``: what a fleet would do under a load, on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from orchestrator.api.terminal.options import json_option


@click.command("simulate")
@click.option("--fleet", type=click.Path(path_type=Path), metavar="FILE", help="A fleet file (ttc fleet).")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=MODEL", help="How large a model of --fleet is.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[ROLE=]MODEL",
    help="Without --fleet: a name (ttc plan models) or a config.json; roles: small, large, verifier.",
)
@click.option("--gpu", default="A100-80", show_default=True, metavar="NAME", help="Without --fleet: ttc plan gpus.")
@click.option("--gpus-per-replica", type=float, default=1.0, show_default=True, metavar="N", help="Without --fleet.")
@click.option("--replicas", multiple=True, metavar="[ROLE=]N", help="Without --fleet: how many of each, else 1.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=("self_consistency:n=8",),
    show_default=True,
    metavar="NAME[:K=V,...][@W]",
    help="How jobs are solved; repeat for a mix with weights W.",
)
@click.option("--prompt-tokens", type=click.IntRange(1, 1_000_000), default=300, show_default=True, metavar="N")
@click.option("--output-tokens", default="mean=400,cv=0.6", show_default=True, metavar="N", help="Of a solution.")
@click.option("--steps", type=float, default=6.0, show_default=True, metavar="N", help="Of a solution, for searches.")
@click.option("--agreement", type=float, default=0.6, show_default=True, metavar="P", help="Answers that are alike.")
@click.option("--load", default="0.5,0.8,0.95", show_default=True, metavar="X,...", help="Shares of saturation.")
@click.option("--rate", type=float, metavar="R", help="Jobs per second instead.")
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Arrivals and lengths of a trace instead."
)
@click.option("--scale", type=float, default=1.0, show_default=True, metavar="X", help="Times the rate, or the trace.")
@click.option("--times", default="1", show_default=True, metavar="N,...", help="So many times the fleet and the load.")
@click.option("--job-p95", "job_p95_s", type=float, metavar="S", help="Find the rate that keeps this objective.")
@click.option("--ttft-p95", "ttft_p95_s", type=float, metavar="S", help="As above, for first tokens.")
@click.option("--tpot-p95", "tpot_p95_s", type=float, metavar="S", help="As above, per further token.")
@click.option("--duration", type=float, metavar="S", help="Simulated seconds.  [default: 24 lone jobs, or the trace]")
@click.option("--warmup", type=float, metavar="S", help="Of that, not counted.  [default: a third]")
@click.option("--seeds", type=int, default=3, show_default=True, metavar="N", help="Runs; intervals are over them.")
@click.option("--recorded", type=int, default=60, show_default=True, metavar="N", help="Jobs whose shapes are played.")
@click.option("--controllers", type=int, default=1, show_default=True, metavar="N", help="Processes that run jobs.")
@click.option(
    "--controller-ms", type=float, default=0.0, show_default=True, metavar="MS", help="CPU of one per call and sample."
)
@click.option("--gpus", "gpu_file", type=click.Path(path_type=Path), metavar="FILE", help="A catalogue of your own.")
@click.option("--assume", default="", metavar="K=V,...", help="Other assumptions, e.g. compute=0.4,step_s=0.004.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw times and cost against load.")
@json_option("the study as a JSON object")
def simulate(*, as_json: bool, **options: Any) -> None:  # Any: click's values, by option
    """See on paper what a fleet does under a load: throughput, latencies, use, cost, and where it saturates.

    The policies really run, under the real controller, on an engine without a model: that gives the shapes of their
    jobs. The shapes are then played by the thousands on replicas that batch, share prefixes, run out of KV memory,
    and take for each step what a roofline of model and GPU says. Each number is a mean over seeds, with its 95%
    interval.

    \b
    Examples:
      ttc plan simulate --model qwen2.5-7b --gpu A100-80 --policy self_consistency:n=8
      ttc plan simulate --fleet fleet.toml --policy rebase:width=16 --load 0.3,0.6,0.9
      ttc plan simulate --fleet fleet.toml --trace azure_llm_2023_conv.csv --policy single@0.8 \\
        --policy self_consistency:n=4@0.2
      ttc plan simulate --times 1,10,100,1000 --load 0.8 --seeds 1 --duration 60
      ttc plan simulate --job-p95 20 --plot load.png
    """  # noqa: D301  # click wants the character
    from orchestrator.api.terminal.simulating import TerminalProgress, check_path, print_study, run_study

    check_path(options["plot"], "plot")
    with TerminalProgress() as progress:
        study = run_study(options, progress)
    if options["plot"] is not None:
        from orchestrator.api.simulation_plot import draw_study

        draw_study(study.rows, options["plot"])
    if as_json:
        click.echo(json.dumps(study.to_json(), indent=2))
    else:
        print_study(study)
    if options["plot"] is not None:
        click.echo(f"wrote {options['plot']}", err=True)
