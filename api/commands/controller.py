"""``ttc controller``: runs queued jobs of a shared store, without HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.api.terminal.options import ModelChoice
from orchestrator.api.terminal.serving import (
    check_installed,
    models_with,
    named_store,
    service_options,
    settings_with,
)
from orchestrator.errors import InvalidRequest
from orchestrator.stores.opening import shown_store

if TYPE_CHECKING:
    from orchestrator.in_process import Orchestrator


@click.command()
@service_options
def controller(
    *,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    embedder: str | None,
    fleet: str | None,
    store: str | None,
    concurrency: int | None,
    grace_s: float | None,
) -> int:
    """Run queued jobs of a store that ttc serve shares.

    Any number of controllers may run; all of one store are to have the same models. One that dies loses its jobs to
    the others, which go on from the journals. Ctrl-C and SIGTERM end it when its jobs have ended, or give them back
    to the queue after --grace seconds; a second Ctrl-C stops it at once.

    \b
    Examples:
      ttc controller --store redis://localhost:6379/0 --model openai:NAME@http://localhost:8001/v1
      ttc controller --store redis://localhost:6379/0 --fleet fleet.toml
    """  # noqa: D301  # click wants the character
    check_installed()
    from orchestrator.api.service import process

    settings = settings_with(concurrency=concurrency, grace_s=grace_s)
    if settings.service.concurrency < 1:
        raise InvalidRequest("--concurrency must be at least 1", field="concurrency", value=0)
    choice = ModelChoice.of_options(model, large, verifier_model, embedder, fleet=fleet)
    kept_in = named_store(store, settings, is_shared=True)
    serving = process.Serving(settings=settings, models=models_with(choice, settings), store=kept_in)

    def ready(orchestrator: Orchestrator) -> None:
        names = ", ".join(engine.describe().name for engine in orchestrator.fleet)
        click.echo(f"running jobs of {shown_store(kept_in)}, {settings.service.concurrency} at once, with {names}")

    return process.run(process.control(serving, on_ready=ready))
