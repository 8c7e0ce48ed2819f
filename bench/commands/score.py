"""``ttc bench score``: rewards of steps for the samples of a pool that was recorded before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import click

from orchestrator.api.terminal.pulling import pull_missing
from orchestrator.bench.commands.options import named_scorers
from orchestrator.bench.commands.progress import Standing, showing_progress
from orchestrator.config import Settings, read_settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest


@click.command()
@click.argument("pool", metavar="POOL")
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    required=True,
    metavar="NAME=MODEL",
    help="A process reward model; repeatable.",
)
@click.option("--out", required=True, metavar="FILE", help="The copy with scores; another file than POOL.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def score(*, pool: str, scorers: tuple[str, ...], out: str, quiet: bool) -> None:
    """Score the steps of POOL's samples with process reward models, into a copy of it.

    Nothing is generated again; scores that the pool had are not copied. An interrupted run goes on where it stopped.

    \b
    Example:
      ttc bench score plain.pool.xz --scorer prm=lab:prm --out scored.pool.xz
    """  # noqa: D301  # click wants the character
    if Path(out).resolve() == Path(pool).resolve():
        raise InvalidRequest(f"--out {out!r} is the pool itself; name another file", field="out", value=out)
    named = named_scorers(scorers)
    pull_missing(list(named.values()), is_quiet=quiet)
    click.echo(asyncio.run(_scored(Path(pool), Path(out), named, read_settings(), is_quiet=quiet)))


async def _scored(pool: Path, out: Path, named: Mapping[str, str], settings: Settings, *, is_quiet: bool) -> Path:
    from orchestrator.bench.recorded.scoring import score_again
    from orchestrator.models import open_model

    done = [Standing(0, 0)]
    opened: dict[str, Engine] = {}

    def tell(num_done: int, total: int) -> None:
        done[0] = Standing(num_done, total)

    try:
        for model in named.values():
            if model not in opened:
                opened[model] = await open_model(model, settings=settings)
        engines = {name: opened[model] for name, model in named.items()}
        async with showing_progress("problems", lambda: done[0], is_quiet=is_quiet):
            return await score_again(pool, out, engines, on_progress=tell)
    finally:
        for engine in opened.values():
            await engine.aclose()
