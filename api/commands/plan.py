"""``ttc plan``: the cheapest GPUs that serve a load within its objectives, and the files that start them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import click

from orchestrator.api.terminal.options import json_option

_COMMANDS = {
    "gpus": "orchestrator.api.commands.plan_lists:gpus",
    "models": "orchestrator.api.commands.plan_lists:models",
    "simulate": "orchestrator.api.commands.simulate:simulate",
}
"""Subcommands, imported when they are called: name -> ``module:command``."""


class _PlanCommands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_PlanCommands, invoke_without_command=True)
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Azure, BurstGPT or Mooncake requests.")
@click.option("--rate", type=float, metavar="R", help="Queries per second; by default the trace's busy minutes.")
@click.option("--scale", type=float, default=1.0, show_default=True, metavar="X", help="Times the rate.")
@click.option("--input-tokens", metavar="N", help="Without a trace: 512, or mean=512,cv=0.6 (lognormal).")
@click.option("--output-tokens", metavar="N", help="Without a trace, as above.")
@click.option("--window", type=float, default=60.0, show_default=True, metavar="S", help="A minute is S seconds.")
@click.option(
    "--busy", type=float, default=0.95, show_default=True, metavar="Q", help="Quantile of minutes to plan for."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[ROLE=]MODEL",
    help="A name (ttc plan models) or a config.json; roles: small (if none is given), large, verifier.",
)
@click.option("--weight-bits", type=float, metavar="B", help="Of weights in memory; as stored by default.")
@click.option("--kv-bits", type=float, metavar="B", help="Of the KV cache; 16 by default.")
@click.option(
    "--ttft", type=float, default=1.0, show_default=True, metavar="S", help="Objective: seconds to a first token."
)
@click.option(
    "--tpot", type=float, default=0.1, show_default=True, metavar="S", help="Objective: seconds per token after."
)
@click.option("--quantile", type=float, default=0.9, show_default=True, metavar="Q", help="Share that keeps --ttft.")
@click.option("--policy", default="single", show_default=True, metavar="NAME", help="How a query fans out.")
@click.option(
    "--width", type=float, default=1.0, show_default=True, metavar="N", help="Samples of a query, on average."
)
@click.option("--steps", type=int, default=1, show_default=True, metavar="N", help="Steps of a solution, for searches.")
@click.option(
    "--escalate", type=float, default=0.3, show_default=True, metavar="P", help="A cascade's share for large."
)
@click.option(
    "--prefix-hits",
    type=float,
    metavar="P",
    help="Of prefixes that could be shared, the share still cached.  [default: 0 between queries, 1 within one]",
)
@click.option("--gpus", "gpu_file", type=click.Path(path_type=Path), metavar="FILE", help="A catalogue of your own.")
@click.option("--gpu", "gpu_names", multiple=True, metavar="NAME", help="Use only this type; repeat for several.")
@click.option("--cap", "caps", multiple=True, metavar="GPU=N", help="At most N of a type; repeat for several.")
@click.option("--max-gpus", type=int, default=8, show_default=True, metavar="N", help="Most GPUs of one replica.")
@click.option("--at-least", type=int, default=1, show_default=True, metavar="N", help="Fewest replicas of each role.")
@click.option("--profiles", type=click.Path(path_type=Path), metavar="FILE", help="Measured throughput; wins.")
@click.option("--assume", default="", metavar="K=V,...", help="Other assumptions, e.g. compute=0.4,step_s=0.004.")
@click.option("--headroom", type=float, default=0.2, show_default=True, metavar="P", help="Plan for so much more load.")
@click.option("--slices", type=int, default=8, show_default=True, metavar="N", help="Parts that a bucket is cut into.")
@click.option("--draft", metavar="MODEL", help="Draft with this model, or with ngram; gives lengths by load.")
@click.option("--acceptance", type=float, default=0.7, show_default=True, metavar="P", help="Of drafted tokens.")
@click.option(
    "--over-context",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    help="Requests that are longer than a model reads.",
)
@click.option("--node-limit", type=int, default=2000, show_default=True, metavar="N", help="How long to search.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write fleet.toml, ray_cluster.yaml, plan.json."
)
@click.option("--overwrite", is_flag=True, help="Replace files in --out that are there already.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw costs and routes.")
@json_option("the plan as a JSON object")
@click.pass_context
def plan(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:  # Any: click's values, by option
    """Find the cheapest GPUs that serve a load within its objectives.

    Requests are put into buckets by their lengths. For each type of GPU it is computed (or taken from measurements)
    how many of each bucket a replica can serve within the objectives; an integer program then picks the cheapest mix
    (Melange: Griggs et al., 2024). What is not measured is idealised and listed as an assumption.

    \b
    Examples:
      ttc plan --trace azure_llm_2023_conv.csv --model llama-3.1-8b --ttft 1 --tpot 0.1
      ttc plan --rate 5 --input-tokens 300 --output-tokens mean=800,cv=0.6 \\
        --policy beam_search --width 8 --steps 6 --model qwen2.5-7b --model verifier=llama-3.1-8b
      ttc plan --trace conv.csv --model llama-3.1-70b --cap H100=16 --out plan/ --plot plan.png

    \b
    Then:
      ttc fleet check plan/fleet.toml
      ray up plan/ray_cluster.yaml
    """  # noqa: D301  # click wants the character
    if ctx.invoked_subcommand is not None:
        return
    from orchestrator.api.terminal.planning import ask, tables, write_files
    from orchestrator.planning.artefacts import plan_json
    from orchestrator.planning.plan import make_plan

    asked = ask(options)
    found = make_plan(asked.request)
    written = write_files(found, options["out"], is_overwriting=options["overwrite"])
    if options["plot"] is not None:
        from orchestrator.api.plan_plot import draw_plan

        written.append(draw_plan(found, options["plot"]))
    if as_json:
        click.echo(json.dumps({**plan_json(found), "notes": list(asked.notes)}, indent=2))
        return
    tables(found, asked.notes)
    for path in written:
        click.echo(f"wrote {path}", err=True)
