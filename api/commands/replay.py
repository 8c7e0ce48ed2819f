"""``ttc replay``: the policy once more, on its journal instead of a model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.options import existing_store_path, json_option, store_options
from orchestrator.api.terminal.page_file import check_writable, write_page
from orchestrator.api.terminal.report import headline
from orchestrator.errors import JobConflict, ReplayDiverged
from orchestrator.job import Result


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--trace", metavar="FILE", help="Write a page (HTML, self-contained) that shows the tree.")
@store_options
@json_option("the comparison as a JSON object")
def replay(*, job_id: str, trace: str | None, store: str | None, as_json: bool) -> None:
    """Run a finished job again from its journal, and compare the results.

    No model is opened, and nothing is spent or written to the store. Exit code 8 says that the policy now does
    something else than it did.

    \b
    Example:
      ttc replay "$(ttc jobs list --json --limit 1 | jq -r '.[0].id')" --trace tree.html
    """  # noqa: D301  # click wants the character
    if trace is not None:
        check_writable(Path(trace))
    stored, replayed = asyncio.run(_replayed(job_id, existing_store_path(store), trace))
    differences = _differences(stored, replayed)
    if as_json:
        agrees = not differences
        click.echo(json.dumps({"job_id": job_id, "agrees": agrees, "differences": differences, "answer": stored.text}))
    if isinstance(replayed.error, ReplayDiverged):
        raise replayed.error
    if differences:
        words = "; ".join(f"{name}: {was!r} then, {now!r} now" for name, (was, now) in differences.items())
        raise ReplayDiverged(f"the replay of job {job_id!r} differs from its result: {words}", position=-1)
    if not as_json:
        click.echo(headline(stored))
        click.echo(f"confidence: {wording.confidence(stored)}")
        click.echo(f"the replay agrees with the stored result ({stored.num_samples} samples, no model asked)")


async def _replayed(job_id: str, kept_in: str, trace: str | None) -> tuple[Result, Result]:
    from orchestrator.api.story import JobStory
    from orchestrator.in_process import Orchestrator

    async with Orchestrator.offline(store=kept_in) as orchestrator:
        record = await orchestrator.store.get(job_id)
        story = JobStory(record, await orchestrator.store.read(job_id))
        if story.result is None or not record.state.is_terminal:
            raise JobConflict(
                f"job {job_id!r} is {record.state.value}; a replay needs a finished job (ttc jobs resume {job_id})",
                job_id=job_id,
            )
        replayed = await orchestrator.replay(job_id)
    if trace is not None:
        from orchestrator.api.trace import trace_page

        write_page(Path(trace), trace_page(story))
    return story.result, replayed


def _differences(stored: Result, replayed: Result) -> dict[str, tuple[object, object]]:
    """What a replay must give again, where it did not."""
    pairs: dict[str, tuple[object, object]] = {
        "answer": (stored.text, replayed.text),
        "confidence": (stored.confidence, replayed.confidence),
        "alternatives": (stored.answer.alternatives, replayed.answer.alternatives),
        "state": (stored.state.value, replayed.state.value),
        "stop_reason": (stored.stop_reason.value, replayed.stop_reason.value),
        "num_samples": (stored.num_samples, replayed.num_samples),
    }
    return {name: (was, now) for name, (was, now) in pairs.items() if was != now}
