"""``ttc bench record``: many samples of every problem of a set, once, to replay strategies on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.options import json_option
from orchestrator.api.terminal.pulling import pull_missing
from orchestrator.bench.commands.options import data_option, named_scorers
from orchestrator.bench.commands.progress import Standing, showing_progress
from orchestrator.bench.runs.scenarios import with_data
from orchestrator.bench.tasks.task import Split
from orchestrator.config import Settings, read_settings
from orchestrator.engine import Engine
from orchestrator.sampling import Sampling

if TYPE_CHECKING:
    from orchestrator.bench.problems import Problem, ProblemSet
    from orchestrator.bench.recorded.recording import Progress


@click.command()
@click.argument("problem_set", metavar="SET")
@click.option("--out", required=True, metavar="FILE", help="The pool; NAME.pool.xz when it is done.")
@click.option("--model", metavar="MODEL", help="Who answers: a catalogue name, a GGUF file, or ENGINE:TARGET.")
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, metavar="N", help="Of each problem.")
@click.option("--temperature", type=float, default=1.0, show_default=True, metavar="T", help="Of the samples.")
@click.option("--top-p", type=float, default=1.0, show_default=True, metavar="P", help="Of the samples.")
@click.option("--top-k", type=int, default=0, show_default=True, metavar="K", help="Of the samples; 0 for all tokens.")
@click.option("--min-p", type=float, default=0.0, show_default=True, metavar="P", help="Of the samples.")
@click.option("--max-sample-tokens", type=click.IntRange(1), metavar="N", help="Most tokens per sample.")
@click.option("--logprobs", is_flag=True, help="Record the log probability of each token.")
@click.option("--scorer", "scorers", multiple=True, metavar="NAME=MODEL", help="A process reward model; repeatable.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="So many problems.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the samples.")
@click.option("--problem-seed", type=click.IntRange(0), default=0, show_default=True, help="Of the problems.")
@click.option("--split", type=click.Choice(get_args(Split)), default="test", show_default=True, help="Of a lab task.")
@click.option(
    "--jobs", "num_at_once", type=click.IntRange(1, 1024), default=4, show_default=True, help="Problems at once."
)
@data_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option("what was recorded as a JSON object")
def record(
    *,
    problem_set: str,
    out: str,
    model: str | None,
    samples: int,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    max_sample_tokens: int | None,
    logprobs: bool,
    scorers: tuple[str, ...],
    count: int | None,
    seed: int,
    problem_seed: int,
    split: Split,
    num_at_once: int,
    data: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Record a pool: samples of each problem of SET, with their answers, to replay strategies on without a model.

    SET is a task of the lab, as in expression@6, or a set in a file, as in gsm8k:test.jsonl. While it grows the pool is
    NAME.pool.jsonl; a recording that was interrupted goes on there when the same command is given again. A pool that
    is done is NAME.pool.xz, and `ttc bench run SUITE --pool NAME.pool.xz` replays policies on it.

    \b
    Examples:
      ttc bench record expression@6 --model lab:small --scorer prm=lab:prm --count 300 --out expression-small
      ttc bench record gsm8k:test.jsonl --model qwen2.5-coder-0.5b --samples 16 --logprobs --out gsm8k-small
    """  # noqa: D301  # click wants the character
    from orchestrator.bench.sets import open_set

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    settings = read_settings()
    judges = named_scorers(scorers)
    folder = None if data is None else Path(data)
    asked: ProblemSet = open_set(with_data(problem_set, folder), count=count, seed=problem_seed, split=split)
    if max_sample_tokens is not None:
        asked = _WithLength(asked, max_sample_tokens)
    recording = _Recording(
        asked=asked,
        model=model or settings.model,
        scorers=judges,
        num_samples=samples,
        sampling=sampling,
        seed=seed,
        path=Path(out),
        want_logprobs=logprobs,
        num_at_once=num_at_once,
        settings=settings,
    )
    pull_missing([recording.model, *judges.values()], is_quiet=quiet)
    progress = asyncio.run(recording.run(is_quiet=quiet))
    if as_json:
        click.echo(json.dumps(_as_json(progress), indent=2))
        return
    click.echo(_told(progress), err=True)
    click.echo(progress.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recording:
    """A pool that is to be recorded."""

    asked: ProblemSet
    model: str
    scorers: Mapping[str, str]
    num_samples: int
    sampling: Sampling
    seed: int
    path: Path
    want_logprobs: bool
    num_at_once: int
    settings: Settings

    async def run(self, *, is_quiet: bool) -> Progress:
        from orchestrator.bench.recorded.recording import record as record_pool
        from orchestrator.models import open_model

        told: list[Progress] = []
        opened: dict[str, Engine] = {}
        try:
            for name in (self.model, *self.scorers.values()):
                if name not in opened:
                    opened[name] = await open_model(name, settings=self.settings)
            async with showing_progress("problems", lambda: self._standing(told), is_quiet=is_quiet):
                return await record_pool(
                    opened[self.model],
                    self.asked,
                    num_samples=self.num_samples,
                    sampling=self.sampling,
                    seed=self.seed,
                    path=self.path,
                    scorers={name: opened[model] for name, model in self.scorers.items()},
                    concurrency=self.num_at_once,
                    want_logprobs=self.want_logprobs,
                    on_progress=told.append,
                )
        finally:
            for engine in opened.values():
                await engine.aclose()

    def _standing(self, told: Sequence[Progress]) -> Standing:
        if not told:
            return Standing(0, len(self.asked.problems))
        now = told[-1]
        words = f"{now.tokens_per_s:,.0f} tokens/s"
        if now.num_samples:
            words += f", {now.num_correct / now.num_samples:.1%} right".replace("%", " %")
        return Standing(now.num_held + now.num_recorded, now.num_problems, words)


@dataclass(frozen=True, slots=True)
class _WithLength:
    """A `ProblemSet` whose samples may have another length than it says itself."""

    asked: ProblemSet
    max_sample_tokens: int

    @property
    def name(self) -> str:
        return self.asked.name

    @property
    def answer_kind(self) -> str:
        return self.asked.answer_kind

    @property
    def problems(self) -> Sequence[Problem]:
        return self.asked.problems

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        return self.asked.is_correct(problem, answer)


def _told(progress: Progress) -> str:
    words = f"{progress.num_problems:,} problems: {progress.num_recorded:,} recorded now"
    if progress.num_held:
        words += f", {progress.num_held:,} before"
    if progress.num_samples:
        share = f"{progress.num_correct / progress.num_samples:.1%}".replace("%", " %")
        words += f" · {share} of {progress.num_samples:,} samples right · {progress.output_tokens:,} output tokens"
        words += f" in {wording.seconds(progress.elapsed_s)}, {progress.tokens_per_s:,.0f} a second"
    return words


def _as_json(progress: Progress) -> dict[str, object]:
    return {
        "pool": str(progress.path),
        "num_problems": progress.num_problems,
        "num_held": progress.num_held,
        "num_recorded": progress.num_recorded,
        "num_samples": progress.num_samples,
        "num_correct": progress.num_correct,
        "output_tokens": progress.output_tokens,
        "elapsed_s": progress.elapsed_s,
        "tokens_per_s": progress.tokens_per_s,
    }
