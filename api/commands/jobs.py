"""``ttc jobs``: what the store holds, and going on with it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.durations import seconds_of
from orchestrator.api.terminal.options import (
    ModelChoice,
    embedder_option,
    existing_store_path,
    fleet_option,
    json_option,
    model_options,
    store_options,
)
from orchestrator.api.terminal.page_file import check_writable, write_page
from orchestrator.api.terminal.running import print_outcome, watched
from orchestrator.config import read_settings
from orchestrator.errors import InvalidRequest, JobConflict
from orchestrator.store import JobRecord, JobState, Store

_T = TypeVar("_T")
_PAGE = 200


@click.group()
def jobs() -> None:
    """List, show, resume and remove jobs.

    A job is kept with its journal: every action of its policy and every text it paid for. A job whose process died
    goes on with `resume`; nothing it had is bought again.

    \b
    Start here:
      ttc jobs list
      ttc jobs show ID
    """  # noqa: D301  # click wants the character


@jobs.command("list")
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only jobs in this state.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Most jobs, newest first."
)
@store_options
@json_option("a JSON array")
def list_jobs(*, state: str | None, limit: int, store: str | None, as_json: bool) -> None:
    """List jobs, newest first."""
    wanted = None if state is None else JobState(state)
    records = _with_store(store, lambda opened: opened.list_jobs(state=wanted, limit=limit))
    if as_json:
        click.echo(json.dumps([_head(record) for record in records], indent=2))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("job", "state", "created", "policy", "answer"):
        table.add_column(name, no_wrap=True)
    table.add_column("problem")
    for record in records:
        head = _head(record)
        answer = "" if head["answer"] is None else wording.brief(head["answer"], 24)
        created = datetime.fromtimestamp(record.created_at).strftime("%Y-%m-%d %H:%M")
        table.add_row(record.id, head["state"], created, head["policy"], answer, wording.brief(head["problem"], 48))
    result_console().print(table if records else "no jobs")


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--full", is_flag=True, help="Show the whole text of every node.")
@click.option("--trace", metavar="FILE", help="Write a page (HTML, self-contained) that shows the tree.")
@store_options
@json_option("the record, the tree and the result as a JSON object")
def show(*, job_id: str, full: bool, trace: str | None, store: str | None, as_json: bool) -> None:
    """Show a job: what was asked, its tree, and what came of it."""
    from orchestrator.api.story import JobStory
    from orchestrator.api.terminal.story_text import print_story

    if trace is not None:
        check_writable(Path(trace))

    async def read(opened: Store) -> JobStory:
        return JobStory(await opened.get(job_id), await opened.read(job_id))

    story = _with_store(store, read)
    if trace is not None:
        from orchestrator.api.trace import trace_page

        write_page(Path(trace), trace_page(story))
    if as_json:
        click.echo(json.dumps(story.to_json(), indent=2))
    else:
        print_story(story, is_full=full)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--force", is_flag=True, help="Take the job from a process that still seems to work on it.")
@model_options
@embedder_option
@fleet_option
@store_options
@json_option("the result as a JSON object")
@click.option("--quiet", is_flag=True, help="Show no progress, and print only the answer.")
def resume(
    *,
    job_id: str,
    force: bool,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    embedder: str | None,
    fleet: str | None,
    store: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Go on with a job whose process died, or that was answered with `reply`.

    The models are those the job was begun with, unless others are named; a job of a fleet is given its --fleet again,
    for the arguments and the prices there.
    """
    from orchestrator.api.terminal.pulling import pull_missing
    from orchestrator.events import Event
    from orchestrator.in_process import Orchestrator

    settings = read_settings()
    choice = ModelChoice.of_options(model, large, verifier_model, embedder, fleet=fleet)

    async def work() -> int:
        async with _store(existing_store_path(store)) as opened:
            record = await opened.get(job_id)
            if record.state.is_terminal:
                raise JobConflict(f"job {job_id!r} is {record.state.value}; there is nothing to resume", job_id=job_id)
            models = choice.over(record.spec["models"])
            if models.small is None and models.fleet is None and not record.spec["models"]:
                raise InvalidRequest(
                    "the job's models were opened by a program, so they cannot be opened again by name; name one with "
                    "--model",
                    field="model",
                )
            pull_missing(models.names(settings), is_quiet=quiet)
            past = [Event.of(row) for row in await opened.read(job_id)]
            async with Orchestrator(**models.arguments(), store=opened, settings=settings) as orchestrator:
                outcome = await watched(
                    orchestrator,
                    lambda on_event: orchestrator.resume(job_id, on_event=on_event, force=force),
                    is_quiet=quiet,
                    past=past,
                )
        return print_outcome(outcome, as_json=as_json, is_quiet=quiet)

    return asyncio.run(work())


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.argument("text")
@store_options
@json_option("a JSON object")
def reply(*, job_id: str, text: str, store: str | None, as_json: bool) -> None:
    """Answer a job that waits for a person; `resume` lets it go on."""
    from orchestrator.in_process import Orchestrator

    async def work() -> None:
        async with Orchestrator.offline(store=existing_store_path(store)) as orchestrator:
            await orchestrator.reply(job_id, text)

    asyncio.run(work())
    click.echo(
        json.dumps({"job_id": job_id, "state": "queued"}) if as_json else f"go on with: ttc jobs resume {job_id}"
    )


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--after", type=int, default=-1, metavar="SEQ", help="Only events after this position.")
@store_options
@json_option("one JSON object per line")
def events(*, job_id: str, after: int, store: str | None, as_json: bool) -> None:
    """Print a job's journal, one event per line."""

    async def read(opened: Store) -> list[Any]:  # Any: journal rows
        await opened.get(job_id)
        return await opened.read(job_id, after=after)

    for row in _with_store(store, read):
        data = json.dumps(row.data)
        if as_json:
            click.echo(f'{{"seq": {row.seq}, "kind": {json.dumps(row.kind)}, "data": {data}}}')
        else:
            click.echo(f"{row.seq:>5}  {row.kind:<8}  {wording.brief(data, 160)}")


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@store_options
@json_option("a JSON object")
def rm(*, job_ids: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Remove jobs with their journals, whatever their state."""

    async def remove(opened: Store) -> None:
        for job_id in job_ids:
            await opened.get(job_id)  # an unknown id is refused before anything is removed
        for job_id in job_ids:
            await opened.delete(job_id)

    _with_store(store, remove)
    click.echo(json.dumps({"removed": list(job_ids)}) if as_json else f"{len(job_ids)} removed")


@jobs.command()
@click.option("--older-than", required=True, metavar="AGE", help="For instance 12h, 30d or 4w.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@store_options
@json_option("a JSON object")
def purge(*, older_than: str, dry_run: bool, store: str | None, as_json: bool) -> None:
    """Remove finished jobs that have not changed for some time; unfinished ones stay."""
    latest = time.time() - seconds_of(older_than, option="--older-than")

    async def remove(opened: Store) -> list[str]:
        old = [record.id async for record in _all(opened) if record.state.is_terminal and record.updated_at < latest]
        for job_id in () if dry_run else old:
            await opened.delete(job_id)
        return old

    removed = _with_store(store, remove)
    if as_json:
        click.echo(json.dumps({"would_remove" if dry_run else "removed": removed}))
    else:
        click.echo(f"{len(removed)} {'would be ' if dry_run else ''}removed")


def _head(record: JobRecord) -> dict[str, Any]:  # Any: JSON values
    return {
        "id": record.id,
        "state": record.state.value,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "policy": record.spec["policy"],
        "problem": record.spec["problem"],
        "budget": record.spec["budget"],
        "answer": (record.result or {}).get("answer"),
        "confidence": (record.result or {}).get("confidence"),
    }


async def _all(store: Store) -> AsyncIterator[JobRecord]:
    before: str | None = None
    while page := await store.list_jobs(limit=_PAGE, before=before):
        for record in page:
            yield record
        before = page[-1].id


@asynccontextmanager
async def _store(path: str) -> AsyncIterator[Store]:
    from orchestrator.stores import open_store

    store = await open_store(path)
    try:
        yield store
    finally:
        await store.aclose()


def _with_store(given: str | None, use: Callable[[Store], Coroutine[Any, Any, _T]]) -> _T:
    """What ``use`` makes of the store; Any: coroutines neither take nor yield values here."""

    async def work() -> _T:
        async with _store(existing_store_path(given)) as store:
            return await use(store)

    return asyncio.run(work())
