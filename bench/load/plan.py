"""What a load test will send: arrivals, lengths and prompts, checked and complete before the first request goes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.bench.load.arrivals import Arrival, Lengths, poisson, with_lengths
from orchestrator.bench.load.prompts import ProblemPrompts, Prompts, SyntheticPrompts, read_problem_texts
from orchestrator.bench.load.traces import Excerpt, read_trace
from orchestrator.errors import InvalidRequest

DEFAULT_DURATION_S = 60.0
_MAX_REQUESTS = 10_000_000
_INPUTS = Lengths(256)
_OUTPUTS = Lengths(128)


@dataclass(frozen=True, slots=True)
class Plan:
    """A load test.

    Attributes:
        arrivals: In order.
        prompts: What they ask.
        description: All that in a sentence.
    """

    arrivals: tuple[Arrival, ...]
    prompts: Prompts
    description: str


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """As on the command line; None for what was left out."""

    rate: float | None = None
    trace: str | None = None
    speed: float | None = None
    start: float | None = None
    duration: float | None = None
    limit: int | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    problems: str | None = None
    seed: int = 0


def made_plan(options: PlanOptions) -> Plan:
    """The plan that the options describe; reads the files that they name.

    Raises:
        InvalidRequest: Options contradict each other, a file cannot be used, or nothing would be sent.
    """
    _check(options)
    inputs = _lengths(options.input_tokens, "--input-tokens")
    outputs = _lengths(options.output_tokens, "--output-tokens")
    if options.trace is None:
        inputs, outputs = inputs or _INPUTS, outputs or _OUTPUTS
    if options.problems is not None:
        inputs = Lengths(0)  # they are as long as they are
    arrivals = tuple(with_lengths(_arrivals(options), inputs=inputs, outputs=outputs, seed=options.seed))
    if not arrivals:
        raise InvalidRequest(
            "there is nothing to send: no request arrives in that time; set another --start, a longer --duration or a "
            "higher --rate",
            field="duration",
        )
    prompts: Prompts = SyntheticPrompts(options.seed)
    if options.problems is not None:
        prompts = ProblemPrompts(read_problem_texts(Path(options.problems)), options.seed)
    return Plan(arrivals, prompts, _description(options, arrivals, inputs, outputs))


def _check(options: PlanOptions) -> None:
    if (options.rate is None) == (options.trace is None):
        raise InvalidRequest("say when requests arrive: either --rate or --trace", field="rate")
    for name in ("speed", "start"):
        if options.trace is None and getattr(options, name) is not None:
            raise InvalidRequest(f"--{name} is for traces; add --trace FILE or leave it out", field=name)
    if options.problems is not None and options.input_tokens is not None:
        raise InvalidRequest("problems are as long as they are; leave out --input-tokens", field="input_tokens")
    expected = (options.rate or 0.0) * (options.duration or DEFAULT_DURATION_S)
    if options.limit is None and expected > _MAX_REQUESTS:
        raise InvalidRequest(
            f"--rate times --duration is {expected:,.0f} requests; at most {_MAX_REQUESTS:,} are planned ahead",
            field="rate",
            value=options.rate,
        )


def _lengths(text: str | None, option: str) -> Lengths | None:
    return None if text is None else Lengths.parse(text, option=option)


def _arrivals(options: PlanOptions) -> Iterator[Arrival]:
    if options.trace is not None:
        excerpt = Excerpt(options.start or 0.0, options.duration, options.limit, options.speed or 1.0)
        yield from read_trace(Path(options.trace), excerpt)
        return
    assert options.rate is not None  # checked
    duration_s = options.duration
    if duration_s is None and options.limit is None:
        duration_s = DEFAULT_DURATION_S
    for at_s in poisson(options.rate, seed=options.seed, duration_s=duration_s, limit=options.limit):
        yield Arrival(at_s, 0, 1)


def _description(
    options: PlanOptions, arrivals: tuple[Arrival, ...], inputs: Lengths | None, outputs: Lengths | None
) -> str:
    if options.trace is None:
        when = f"Poisson arrivals, {options.rate:g} requests/s"
    else:
        when = f"arrivals of {Path(options.trace).name}"
        when += f" from {options.start:g} s" if options.start else ""
        when += f" at {options.speed:g} times its speed" if options.speed else ""
    asked = "prompts of the trace's lengths" if inputs is None else f"prompts of {_words(inputs)} tokens"
    if options.problems is not None:
        asked = f"problems of {Path(options.problems).name}"
    elif inputs is None and any(arrival.blocks for arrival in arrivals):
        asked += " and shared blocks"
    told = (
        "replies of at most the trace's lengths" if outputs is None else f"replies of at most {_words(outputs)} tokens"
    )
    return f"{len(arrivals)} requests in {arrivals[-1].at_s:.1f} s: {when}; {asked}; {told}; seed {options.seed}"


def _words(lengths: Lengths) -> str:
    return f"{lengths.mean_tokens:g}" + (f" (lognormal, cv {lengths.cv:g})" if lengths.cv else "")
