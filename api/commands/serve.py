"""``ttc serve``: the service over HTTP, with its dashboard; runs queued jobs, too."""

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
from orchestrator.models import split_model
from orchestrator.stores.opening import shown_store
from orchestrator.workers.hosted import hosted_by_default

if TYPE_CHECKING:
    from orchestrator.in_process import Orchestrator

_MAX_WORKERS = 64


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on; by default this machine only (127.0.0.1).")
@click.option("--port", type=int, metavar="PORT", help="Port to listen on; 8000 by default, 0 for any free one.")
@click.option("--workers", type=int, default=1, show_default=True, metavar="N", help="Processes that serve.")
@service_options
def serve(
    *,
    host: str | None,
    port: int | None,
    workers: int,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    embedder: str | None,
    fleet: str | None,
    store: str | None,
    concurrency: int | None,
    grace_s: float | None,
) -> int:
    """Serve reasoning jobs over HTTP: REST, an OpenAI-compatible endpoint, and a dashboard.

    Without API keys (ttc keys create) it answers to this machine only. Ctrl-C and SIGTERM end it when what runs has
    ended, or after --grace seconds: queued jobs go on when it is started again. A second Ctrl-C stops it at once.

    --concurrency 0 leaves queued jobs to ttc controller. Jobs are kept in the same store as those of ttc solve, and
    interrupted jobs of that store are taken up.

    \b
    Examples:
      ttc serve
      ttc serve --model openai:NAME@http://localhost:8001/v1 --store redis://localhost:6379/0 --workers 2
      ttc serve --fleet fleet.toml
    """  # noqa: D301  # click wants the character
    check_installed()
    from orchestrator.api.service import process
    from orchestrator.api.service.workers import serve_in_processes

    if not 1 <= workers <= _MAX_WORKERS:
        raise InvalidRequest(
            f"--workers must be from 1 to {_MAX_WORKERS}, not {workers}", field="workers", value=workers
        )
    settings = settings_with(host=host, port=port, concurrency=concurrency, grace_s=grace_s)
    choice = ModelChoice.of_options(model, large, verifier_model, embedder, fleet=fleet)
    kept_in = named_store(store, settings, is_shared=workers > 1)
    if kept_in == "memory:" and settings.service.concurrency == 0:
        raise InvalidRequest(
            "with --concurrency 0 others run the jobs, and they cannot share a store in memory; name a file or redis://...",
            field="store",
        )
    if workers > 1:
        _check_shareable(choice.names(settings))
    serving = process.Serving(settings=settings, models=models_with(choice, settings), store=kept_in)
    listener = process.listening_socket(settings.service.host, settings.service.port, is_shared=workers > 1)
    address = process.address_of(listener)
    if workers > 1:
        _announce(address, choice.names(settings), kept_in)
        return serve_in_processes(serving, listener, num_processes=workers)

    def ready(orchestrator: Orchestrator, is_open: bool) -> None:
        _announce(address, [engine.describe().name for engine in orchestrator.fleet], kept_in)
        if is_open:
            click.echo("  no API keys: this machine only, no questions asked (ttc keys create)")

    with listener:
        return process.run(process.serve(serving, listener, on_ready=ready))


def _announce(address: str, models: list[str], store: str) -> None:
    click.echo(f"serving on {address}")
    click.echo(f"  dashboard  {address}/")
    click.echo(f"  API        {address}/docs")
    click.echo(f"  models     {', '.join(models)}")
    click.echo(f"  jobs in    {shown_store(store)}")


def _check_shareable(models: list[str]) -> None:
    """Refuses models that each process would load for itself."""
    for model in models:
        if hosted_by_default(model) != model or split_model(model)[0] == "hosted":
            raise InvalidRequest(
                f"model {model!r} would be loaded once for each of the --workers; serve it elsewhere "
                "(openai:NAME@ADDRESS), or use one worker",
                field="workers",
            )
