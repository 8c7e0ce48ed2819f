"""``ttc bench load``: reads the command line, runs the plan against the endpoint, and prints what came of it."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from orchestrator.bench.load.exchange import Exchange
from orchestrator.bench.load.interruption import Interruption
from orchestrator.bench.load.plan import DEFAULT_DURATION_S, Plan, PlanOptions, made_plan
from orchestrator.bench.load.slo import Slo
from orchestrator.clock import SystemClock
from orchestrator.errors import InvalidRequest, MissingDependency

_ALL_FAILED = 6
_SPARE_FILES = 64
_Json = dict[str, Any]  # Any: JSON values


class _FiniteRange(click.FloatRange):
    """A range without infinity and NaN, which click lets pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # Any: click's
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


_POSITIVE = _FiniteRange(min=0, min_open=True)


@click.command()
@click.option("--url", required=True, metavar="URL", help="The endpoint, up to the version: http://HOST:PORT/v1.")
@click.option("--model", metavar="NAME", help="As the server calls it; may be left out if it serves one.")
@click.option("--rate", type=_POSITIVE, metavar="R", help="Poisson arrivals, R requests per second on average.")
@click.option("--trace", metavar="FILE", help="Arrivals and lengths of a trace: Azure LLM, BurstGPT or Mooncake.")
@click.option("--speed", type=_POSITIVE, metavar="X", help="Run the trace X times as fast.")
@click.option("--start", type=_FiniteRange(min=0), metavar="S", help="Begin S seconds into the trace.")
@click.option(
    "--duration",
    type=_POSITIVE,
    metavar="S",
    help=f"Send for S seconds (of the trace, before --speed). With --rate and no --limit: {DEFAULT_DURATION_S:g}.",
)
@click.option("--limit", type=click.IntRange(1, 10_000_000), metavar="N", help="Send at most N requests.")
@click.option("--input-tokens", metavar="N", help="Length of prompts: 256, or mean=256,cv=0.5 for lognormal ones.")
@click.option("--output-tokens", metavar="N", help="Most tokens of replies, in the same way.")
@click.option("--problems", metavar="FILE", help="Ask the problems of a JSON Lines file instead of random words.")
@click.option("--slo", metavar="LIMITS", help="Objectives in seconds, for goodput: ttft=0.5,tpot=0.05,e2e=10.")
@click.option(
    "--timeout",
    type=_POSITIVE,
    default=300.0,
    show_default=True,
    metavar="S",
    help="Give a request up after S seconds.",
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    metavar="N",
    help="Drop (and count) requests that are due while N are in flight: a safety valve, not a way to limit load.",
)
@click.option("--extra-body", metavar="JSON", help="Merged into each request; null removes a field.")
@click.option("--window", type=_FiniteRange(min=0.1), metavar="S", help="Width of the time windows.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws arrivals, lengths and prompts.")
@click.option("--out", metavar="DIR", help="Write load.json, load.md, load.png and requests.jsonl there.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as a JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def load(
    *,
    url: str,
    model: str | None,
    slo: str | None,
    timeout: float,
    max_in_flight: int,
    extra_body: str | None,
    window: float | None,
    out: str | None,
    as_json: bool,
    quiet: bool,
    **plan_options: Any,  # Any: click passes options by name; they are `PlanOptions`
) -> int:
    """Put a running OpenAI-compatible endpoint under load, and say how it held.

    Requests are sent when they are due, whatever is still in flight (an open loop): a server that is too slow is not
    spared. Latencies count from when a request was sent; how late that was is reported too. Nothing is tried again.

    The key is read from TTC_BENCH_API_KEY (for api.openai.com also from OPENAI_API_KEY) and never shown.
    Ctrl-C stops sending, hangs up, and reports what was seen (exit code 130). Exit code 6: no request was completed.

    \b
    Examples:
      a request every half second on average, for a minute:
        ttc bench load --url http://127.0.0.1:8000/v1 --rate 2 --input-tokens 512 --output-tokens 128
      ten minutes of a trace at twice its speed, and the share of requests that keep three objectives:
        ttc bench load --url http://127.0.0.1:8000/v1 --trace azure_llm_2023_conv.csv --duration 600 --speed 2 \\
          --slo ttft=0.5,tpot=0.05,e2e=30 --out conv/
      prompts that share prefixes as the trace says, so that prefix caching shows:
        ttc bench load --url http://127.0.0.1:8000/v1 --trace mooncake_conversation_trace.jsonl --limit 200
      real problems, replies of any length up to a lognormal limit, a server that must not stop early:
        ttc bench load --url http://127.0.0.1:8000/v1 --rate 0.5 --problems gsm8k_test.jsonl \\
          --output-tokens mean=200,cv=0.6 --extra-body '{"ignore_eos": true}' --json
    """  # noqa: D301  # click wants the character
    objectives = Slo() if slo is None else Slo.parse(slo)
    body = _parsed_body(extra_body)
    folder = None if out is None else _made_folder(out)
    plan = made_plan(PlanOptions(**plan_options))
    _allow_open_files(min(max_in_flight, len(plan.arrivals)))

    interruption = Interruption()
    with interruption.caught():
        result, exchanges = asyncio.run(
            _run(
                plan,
                url,
                model,
                objectives,
                interruption,
                extra_body=body,
                timeout_s=timeout,
                max_in_flight=max_in_flight,
                window_s=window,
                is_quiet=quiet,
            )
        )
        _tell(result, exchanges, folder, as_json=as_json)
    if result["is_stopped"]:
        return 128 + (interruption.signal_number or 0)
    return 0 if result["figures"]["counts"]["completed"] else _ALL_FAILED


async def _run(
    plan: Plan,
    url: str,
    model: str | None,
    slo: Slo,
    interruption: Interruption,
    *,
    extra_body: _Json,
    timeout_s: float,
    max_in_flight: int,
    window_s: float | None,
    is_quiet: bool,
) -> tuple[_Json, Sequence[Exchange]]:
    """The figures, and the requests."""
    from orchestrator.bench.load.client import open_target
    from orchestrator.bench.load.measures import Run, measured
    from orchestrator.bench.load.open_loop import OpenLoop
    from orchestrator.bench.load.progress import showing
    from orchestrator.bench.report import machine

    target = await open_target(url, model, extra_body=extra_body)
    facts = machine()
    loop = OpenLoop(target, plan.prompts, clock=SystemClock(), timeout_s=timeout_s, max_in_flight=max_in_flight)
    cpu_s = time.process_time()
    try:
        interruption.stop = partial(asyncio.get_running_loop().call_soon_threadsafe, loop.stop)
        async with showing(loop, len(plan.arrivals), is_quiet=is_quiet):
            await loop.run(plan.arrivals)
        interruption.stop = bool  # nothing is left to stop
    finally:
        await target.aclose()
    run = Run(plan.arrivals, loop.exchanges, loop.duration_s, time.process_time() - cpu_s)
    result = {
        "plan": {"description": f"{target.name}. {plan.description}.", "timeout_s": timeout_s, "slo_s": slo.limits()},
        "is_stopped": loop.is_stopped,
        "figures": measured(run, slo=slo, window_s=window_s),
        "machine": facts,
    }
    return result, loop.exchanges


def _tell(result: _Json, exchanges: Sequence[Exchange], folder: Path | None, *, as_json: bool) -> None:
    from orchestrator.bench.load.report import page, write_files

    click.echo(json.dumps(result, indent=2) if as_json else page(result), nl=as_json)
    if folder is None:
        return
    write_files(folder, result, exchanges)
    from orchestrator.bench.load.plot import write_plot

    figures, plan = result["figures"], result["plan"]
    try:
        write_plot(folder / "load.png", figures["windows"], title=plan["description"], slo_s=plan["slo_s"])
    except MissingDependency as error:
        print(f"no plot: {error}", file=sys.stderr)
    print(f"wrote {folder}", file=sys.stderr)


def _parsed_body(text: str | None) -> _Json:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"--extra-body is not JSON: {error}", field="extra_body", value=text) from None
    if not isinstance(value, dict):
        raise InvalidRequest("--extra-body must be a JSON object", field="extra_body", value=text)
    return value


def _made_folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "requests.jsonl").open("ab"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot write to --out {out!r}: {reason}", field="out", value=out) from error
    return folder


def _allow_open_files(num_connections: int) -> None:
    """Each request in flight is a connection, which is an open file.

    Raises:
        InvalidRequest: The system does not allow that many.
    """
    try:
        import resource
    except ImportError:  # not on this platform
        return
    needed = num_connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise InvalidRequest(
                f"{num_connections} requests may be in flight but this process may open only {hard} files; set "
                f"--max-in-flight {max(1, hard - _SPARE_FILES)}, or raise the limit (ulimit -n)",
                field="max_in_flight",
                value=num_connections,
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
