"""``ttc solve``: one problem, or a file of problems, under a budget."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click

from orchestrator.api.terminal.asking import Asking
from orchestrator.api.terminal.options import (
    ModelChoice,
    json_option,
    problem_options,
    store_options,
    store_path,
)
from orchestrator.api.terminal.page_file import check_writable, write_page
from orchestrator.api.terminal.problems import is_json_lines, read_problems, read_text
from orchestrator.api.terminal.running import NO_ANSWER, print_outcome, watched
from orchestrator.config import Settings, read_settings
from orchestrator.errors import InvalidRequest, StoreFailed

_MAX_CONCURRENCY = 1024


@click.command()
@click.argument("problem", required=False)
@click.option("--file", metavar="FILE", help="Read the problem from a file; - is stdin. A .jsonl file holds many.")
@click.option("--jsonl", is_flag=True, help="The input is JSON Lines, whatever it is called.")
@problem_options
@json_option("the result as a JSON object")
@click.option("--trace", metavar="FILE", help="Write a page (HTML, self-contained) that shows the tree.")
@store_options
@click.option("--no-store", is_flag=True, help="Keep the job in memory only; it can be neither resumed nor replayed.")
@click.option("--quiet", is_flag=True, help="Show no progress, and print only the answer.")
@click.option("--out", metavar="FILE", help="JSON Lines: append results to FILE; problems it holds are skipped.")
@click.option("--concurrency", type=int, default=4, show_default=True, help="JSON Lines: problems under way at once.")
@click.option("--strict", is_flag=True, help="JSON Lines: refuse the input if a line cannot be used.")
def solve(
    *,
    problem: str | None,
    file: str | None,
    jsonl: bool,
    policy: str | None,
    count: int | None,
    parameters: tuple[str, ...],
    budget: str | None,
    target_confidence: float | None,
    model: str | None,
    large: str | None,
    verifier_model: str | None,
    embedder: str | None,
    fleet: str | None,
    verifier: str | None,
    answer: str,
    max_sample_tokens: int | None,
    temperature: float | None,
    seed: int,
    as_json: bool,
    trace: str | None,
    store: str | None,
    no_store: bool,
    quiet: bool,
    out: str | None,
    concurrency: int,
    strict: bool,
) -> int:
    """Solve PROBLEM by test-time compute, under a budget that holds.

    Without PROBLEM and --file, the problem is read from stdin. Ctrl-C ends the job with its best answer so far
    (exit code 130); a second Ctrl-C leaves at once, and `ttc jobs resume` goes on from there.

    Many problems: a .jsonl file has an object per line, with the problem in "problem", "question", "prompt" or
    "input"; "id", a reference in "answer" (as in GSM8K and MATH-500), "budget", "policy", "params" and "seed" may be
    given. Exit code 5 says that some have no answer.

    Tree searches (ttc policies) score each step with a process reward model, which --verifier-model names.

    \b
    Examples:
      ttc solve "What is 17 * 23?" --budget tokens=2000
      ttc solve --file problem.txt --policy self_consistency -n 16 --trace tree.html
      echo "Is 221 prime?" | ttc solve --policy best_of_n --verifier generative --json
      ttc solve --file problem.txt --policy ets --set width=16 --verifier-model lab:prm --trace tree.html
      ttc solve --file gsm8k.jsonl --out results.jsonl --concurrency 8
      ttc solve --file problem.txt --policy cascade --fleet fleet.toml
    """  # noqa: D301  # click wants the character
    is_many = is_json_lines(file, is_forced=jsonl)
    _check_flags(
        is_many=is_many,
        has_argument=problem is not None,
        trace=trace,
        out=out,
        as_json=as_json,
        strict=strict,
        store=store,
        no_store=no_store,
        concurrency=concurrency,
    )
    settings = read_settings()
    asking = Asking.of_options(
        settings=settings,
        policy=policy,
        count=count,
        parameters=parameters,
        budget=budget,
        target_confidence=target_confidence,
        verifier=verifier,
        answer=answer,
        temperature=temperature,
        max_sample_tokens=max_sample_tokens,
        seed=seed,
    )
    choice = ModelChoice.of_options(model, large, verifier_model, embedder, fleet=fleet)
    kept_in = "memory:" if no_store else store_path(store, settings)
    if is_many:
        return _solve_many(
            file, asking, choice, kept_in, settings, out=out, concurrency=concurrency, is_strict=strict, is_quiet=quiet
        )
    text = read_text(problem, file)
    if not text.strip():
        raise InvalidRequest("the problem is empty; give a question or a task", field="problem", value="")
    if trace is not None:
        check_writable(Path(trace))
    return asyncio.run(
        _solve_one(text, asking, choice, kept_in, settings, as_json=as_json, is_quiet=quiet, trace=trace)
    )


def _check_flags(
    *,
    is_many: bool,
    has_argument: bool,
    trace: str | None,
    out: str | None,
    as_json: bool,
    strict: bool,
    store: str | None,
    no_store: bool,
    concurrency: int,
) -> None:
    """Refuses flags that contradict each other."""
    if store is not None and no_store:
        raise InvalidRequest("--store and --no-store contradict each other", field="store", value=store)
    if is_many:
        if has_argument:
            raise InvalidRequest("JSON Lines come from --file or stdin, not from an argument", field="problem")
        if trace is not None:
            raise InvalidRequest("--trace shows one job; it cannot be used with JSON Lines", field="trace", value=trace)
        if as_json and out is not None:
            raise InvalidRequest("--out holds JSON already; leave --json away", field="json")
        if not 1 <= concurrency <= _MAX_CONCURRENCY:
            raise InvalidRequest(
                f"--concurrency must be from 1 to {_MAX_CONCURRENCY}, not {concurrency}",
                field="concurrency",
                value=concurrency,
            )
        return
    for option, is_given in (("--out", out is not None), ("--strict", strict)):
        if is_given:
            name = option.lstrip("-")
            raise InvalidRequest(f"{option} is for JSON Lines; add --jsonl or a .jsonl file", field=name)


async def _solve_one(
    text: str,
    asking: Asking,
    choice: ModelChoice,
    kept_in: str,
    settings: Settings,
    *,
    as_json: bool,
    is_quiet: bool,
    trace: str | None,
) -> int:
    async with _opened(choice, kept_in, settings, is_quiet=is_quiet) as orchestrator:
        outcome = await watched(
            orchestrator,
            lambda on_event: orchestrator.solve(text, **asking.arguments(), on_event=on_event),
            is_quiet=is_quiet,
        )
        page: str | None = None
        if trace is not None and not isinstance(outcome.result.error, StoreFailed):
            from orchestrator.api.story import JobStory
            from orchestrator.api.trace import trace_page

            job_id, kept = outcome.result.job_id, orchestrator.store
            page = trace_page(JobStory(await kept.get(job_id), await kept.read(job_id)))
    try:
        return print_outcome(outcome, as_json=as_json, is_quiet=is_quiet)
    finally:
        if trace is not None and page is not None:
            write_page(Path(trace), page)


def _solve_many(
    file: str | None,
    asking: Asking,
    choice: ModelChoice,
    kept_in: str,
    settings: Settings,
    *,
    out: str | None,
    concurrency: int,
    is_strict: bool,
    is_quiet: bool,
) -> int:
    from orchestrator.api.terminal.batch import Batch, Tally
    from orchestrator.api.terminal.batch_display import showing_tally, summary
    from orchestrator.api.terminal.results import ResultFile, ResultSink, StandardOutput
    from orchestrator.api.terminal.shutdown import stopping_gently

    problems = read_problems(file)
    broken = next((problem.error for problem in problems if problem.error is not None), None)
    if is_strict and broken is not None:
        raise broken
    tally = Tally(len(problems))
    with ExitStack() as stack:
        sink: ResultSink = StandardOutput()
        if out is not None:
            sink = stack.enter_context(ResultFile(Path(out)))
            done = {problem.id: sink.rows[problem.id] for problem in problems if problem.id in sink.rows}
            for row in done.values():
                tally.count(row, is_skipped=True)
            problems = [problem for problem in problems if problem.id not in done]

        async def run() -> int | None:
            async with _opened(choice, kept_in, settings, is_quiet=is_quiet) as orchestrator:
                batch = Batch(orchestrator, asking, sink, tally, concurrency=concurrency)
                with stopping_gently(batch.stop) as interruption:
                    async with showing_tally(tally, is_quiet=is_quiet):
                        await batch.run(problems)
                return interruption.exit_code

        signal_exit = asyncio.run(run()) if problems else None
    if not is_quiet:
        print(summary(tally), file=sys.stderr)
    if signal_exit is not None:
        return signal_exit
    return 0 if tally.num_answered == tally.num_problems else NO_ANSWER


@asynccontextmanager
async def _opened(choice: ModelChoice, kept_in: str, settings: Settings, *, is_quiet: bool) -> AsyncIterator[Any]:
    """The SDK with its models there; Any: its type is not imported before it is needed."""
    from orchestrator.api.terminal.pulling import pull_missing
    from orchestrator.in_process import Orchestrator

    pull_missing(choice.names(settings), is_quiet=is_quiet)
    async with Orchestrator(**choice.arguments(), store=kept_in, settings=settings) as orchestrator:
        yield orchestrator
