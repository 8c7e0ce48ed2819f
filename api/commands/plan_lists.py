"""``ttc plan gpus`` and ``ttc plan models``: what a plan may be made of."""

from __future__ import annotations

import json
from pathlib import Path

import click

from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.options import json_option


@click.command()
@click.option("--gpus", "gpu_file", type=click.Path(path_type=Path), metavar="FILE", help="A catalogue of your own.")
@json_option("the catalogue as a JSON object")
def gpus(*, gpu_file: Path | None, as_json: bool) -> None:
    """List the GPUs that a plan may use, with their prices and where those are from.

    Prices change: make a file of the same form with yours, and name it with --gpus.
    """
    from rich.table import Table

    from orchestrator.planning.catalogue import Catalogue

    catalogue = Catalogue.default() if gpu_file is None else Catalogue.read(gpu_file)
    if as_json:
        click.echo(json.dumps(catalogue.model_dump(mode="json"), indent=2))
        return
    table = Table("GPU", "memory", "bandwidth", "FP16", "node", "GPUs", "$/h", "$/GPU h", box=None, pad_edge=False)
    for name, gpu in catalogue.gpus.items():
        for offer in gpu.offers:
            table.add_row(
                name,
                f"{gpu.memory_gib:g} GiB",
                f"{gpu.bandwidth_gb_s:,g} GB/s",
                f"{gpu.fp16_tflops:,g} TFLOPs",
                offer.name,
                str(offer.gpus),
                f"{offer.usd_per_hour:,.3f}",
                f"{offer.usd_per_hour / offer.gpus:.3f}",
            )
    result_console().print(table)
    click.echo(f"prices: {catalogue.source}, {catalogue.date}", err=True)


@click.command()
@json_option("the shapes as a JSON array")
def models(*, as_json: bool) -> None:
    """List the models whose shape is known by name; any other is named by its config.json."""
    from rich.table import Table

    from orchestrator.planning.shapes import presets

    shapes = presets().values()
    if as_json:
        rows = [
            {
                "name": shape.name,
                "source": shape.source,
                "parameters": shape.parameters,
                "active_parameters": shape.active_parameters,
                "layers": shape.layers,
                "kv_bytes_per_token": shape.kv_bytes_per_token,
                "context": shape.context,
            }
            for shape in shapes
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(
        "name", "parameters", "active", "weights", "KV/token", "context", "opened by", box=None, pad_edge=False
    )
    for shape in shapes:
        table.add_row(
            shape.name,
            f"{shape.parameters / 1e9:.2f} B",
            f"{shape.active_parameters / 1e9:.2f} B",
            f"{shape.memory_bytes / 1e9:.1f} GB",
            f"{shape.kv_bytes_per_token / 1024:.0f} KiB",
            f"{shape.context:,}",
            shape.source,
        )
    result_console().print(table)
