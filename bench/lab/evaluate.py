"""What the lab's models can do on fresh problems, in the embedded engine, with intervals.

``python -m orchestrator.bench.lab.evaluate``: pass@k of the generators by task and complexity, then how well the reward
model tells good steps from bad ones. Problems are drawn with a seed of the moment, which is recorded. Writes `lab.json`
and `lab.md`; models that are not named keep their figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.bench.analysis.estimates import interval, pass_at
from orchestrator.bench.lab.auc import auc, auc_within
from orchestrator.bench.lab.model_names import GENERATORS, REWARD_MODEL, weights_path
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.tasks import TASKS, Split, Task, draw_distinct, is_solved, steps_of
from orchestrator.bench.tasks.task import answer_in
from orchestrator.engine import Delta, Engine, Finished, GenerateRequest, Message, Prompt, RewardsSteps, SampleSpec
from orchestrator.sampling import Sampling, derived_seed
from orchestrator.step_scores import split_steps
from orchestrator.workers.llama_cpp import open_engine

_MAX_TOKENS = 128
_PARALLEL_SEQUENCES = 16
_PARALLEL_PROBLEMS = 2


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of one problem: their texts, how many are right, and their tokens."""

    problem: str
    texts: tuple[str, ...]
    right: int
    tokens: int


async def sample_problem(engine: Engine, task: str, problem: str, *, num_samples: int, seed: int) -> Samples:
    """Samples at temperature 1, checked."""
    request = GenerateRequest(
        request_id=f"{task}/{problem}",
        prompt=Prompt((Message("user", problem),)),
        samples=tuple(SampleSpec(derived_seed(seed, problem, index), _MAX_TOKENS) for index in range(num_samples)),
        sampling=Sampling(temperature=1.0),
    )
    texts = [""] * num_samples
    tokens = 0
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            texts[event.index] += event.text
        elif isinstance(event, Finished):
            tokens += event.output_tokens
    right = sum(is_solved(TASKS[task], problem, text) for text in texts)
    return Samples(problem, tuple(texts), right, tokens)


async def sample_all(
    engine: Engine, task: str, problems: Sequence[str], *, num_samples: int, seed: int
) -> list[Samples]:
    """Some problems at once."""
    turns = asyncio.Semaphore(_PARALLEL_PROBLEMS)

    async def one(problem: str) -> Samples:
        async with turns:
            return await sample_problem(engine, task, problem, num_samples=num_samples, seed=seed)

    return await asyncio.gather(*map(one, problems))


def cell_of(task: str, samples: Sequence[Samples]) -> dict[str, Any]:  # Any: JSON values
    """Pass@k for every power of 4 up to the number of samples, how different the samples are, and where they fail."""
    total = len(samples[0].texts)
    widths = [k for k in (1, 4, 16, 64, 256) if k <= total]
    return {
        "problems": len(samples),
        "samples": total,
        "tokens_per_sample": round(sum(sample.tokens for sample in samples) / len(samples) / total, 1),
        **{f"pass@{k}": interval([pass_at(k, total, sample.right) for sample in samples]) for k in widths},
        "distinct_texts": round(sum(len(set(sample.texts)) for sample in samples) / len(samples) / total, 4),
        "failures": failures(task, samples),
    }


def failures(task: str, samples: Sequence[Samples]) -> dict[str, float]:
    """Shares of the wrong solutions: a false step, no false step but a dead end, a text that is no solution at all."""
    counts = dict.fromkeys(("false step", "dead end", "form"), 0)
    for sample in samples:
        for text in sample.texts:
            if not is_solved(TASKS[task], sample.problem, text):
                counts[_failure(TASKS[task], sample.problem, steps_of(text))] += 1
    total = max(sum(counts.values()), 1)
    return {kind: round(count / total, 4) for kind, count in counts.items()}


def _failure(task: Task, problem: str, steps: Sequence[str]) -> str:
    if answer_in(steps[-1]) is None or not all(task.is_step(step) for step in steps[:-1]):
        return "form"
    return "dead end" if task.first_error(problem, steps[:-1]) is None else "false step"


async def evaluate(path: Path, grid: Mapping[str, Sequence[int]], options: argparse.Namespace) -> dict[str, Any]:
    """All cells of one generator. Any: JSON values."""
    engine = await _open(path, options)
    started, tokens = time.monotonic(), 0
    cells: dict[str, dict[str, Any]] = {}
    try:
        for task, complexities in grid.items():
            for complexity in complexities:
                problems = _problems(task, complexity, options)
                samples = await sample_all(engine, task, problems, num_samples=options.samples, seed=options.seed)
                tokens += sum(sample.tokens for sample in samples)
                cells.setdefault(task, {})[str(complexity)] = cell = cell_of(task, samples)
                print(path.stem, task, complexity, json.dumps(cell), flush=True)
    finally:
        await engine.aclose()
    return {"cells": cells, "tokens_per_s": round(tokens / (time.monotonic() - started), 1), **_settings(options)}


async def judge(path: Path, writer: Path, options: argparse.Namespace) -> dict[str, Any]:  # Any: JSON values
    """Step AUC of the reward model on solutions of a generator, by task, against what is true of the steps."""
    generator, judging = await _open(writer, options), await _open(path, options)
    cells: dict[str, Any] = {}
    try:
        assert isinstance(judging, RewardsSteps)
        for name, task in TASKS.items():
            rewards: list[float] = []
            are_good: list[bool] = []
            places: list[int] = []
            problems = _problems(name, task.default_complexity, options)
            for sample in await sample_all(generator, name, problems, num_samples=4, seed=options.seed):
                for text in sample.texts:
                    steps = split_steps(text)
                    if not steps:
                        continue
                    judged = await judging.reward_steps(Prompt((Message("user", sample.problem),)), steps)
                    plain = [step.removesuffix("\n\n") for step in steps]
                    rewards += judged.rewards
                    are_good += [task.can_finish(sample.problem, plain[: end + 1]) for end in range(len(steps))]
                    places += range(len(steps))
            cells[name] = {
                "complexity": task.default_complexity,
                "steps": len(rewards),
                "good": round(sum(are_good) / len(are_good), 4),
                "auc": round(auc(rewards, are_good), 4),
                "auc_at_one_depth": round(auc_within(rewards, are_good, places), 4),
            }
            print(path.stem, name, json.dumps(cells[name]), flush=True)
    finally:
        await generator.aclose()
        await judging.aclose()
    return {"writer": writer.stem, "judged": cells, **_settings(options)}


async def _open(path: Path, options: argparse.Namespace) -> Engine:
    return await open_engine(
        path, name=path.stem, num_threads=options.threads, context_cells=16384, max_sequences=_PARALLEL_SEQUENCES
    )


def _problems(task: str, complexity: int, options: argparse.Namespace) -> list[str]:
    split: Split = options.split
    rng = random.Random(f"{options.seed}/{task}/{complexity}")
    return draw_distinct(TASKS[task], rng, complexity, split, options.problems)


def _settings(options: argparse.Namespace) -> dict[str, Any]:  # Any: JSON values
    return {"split": options.split, "seed": options.seed, "threads": options.threads, **machine()}


def page(results: Mapping[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    lines = [
        "# The lab's models",
        "",
        "Share of fresh problems solved at temperature 1 in the embedded engine (95% bootstrap interval over",
        "problems); pass@k is estimated without bias from all samples of a problem. The default complexity is bold.",
        "Failures: solutions that go wrong by a false step, that end in a wrong answer after true steps only, and that",
        "are no solution in form. Made by `python -m orchestrator.bench.lab.evaluate`.",
    ]
    for name, result in results.items():
        lines += ["", f"## {name}", ""]
        lines += _judged_lines(result) if "judged" in result else _cell_lines(result)
        lines += ["", f"{result['split']} split, seed {result['seed']}, {result['threads']} thread(s)"]
        if "tokens_per_s" in result:
            lines[-1] += f", {result['tokens_per_s']} output tokens per second"
        lines[-1] += f". {machine_line(result)}"
    return "\n".join(lines) + "\n"


def _cell_lines(result: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    rows = []
    for task, cells in result["cells"].items():
        for complexity, cell in cells.items():
            widths = sorted(int(key[5:]) for key in cell if key.startswith("pass@"))
            is_default = int(complexity) == TASKS[task].default_complexity
            rows.append(
                (
                    task,
                    f"**{complexity}**" if is_default else complexity,
                    cell["problems"],
                    _share(cell["pass@1"]),
                    f"{_share(cell[f'pass@{widths[-1]}'])} (k = {widths[-1]})",
                    cell["tokens_per_sample"],
                    f"{cell['distinct_texts']:.2f}",
                    ", ".join(f"{100 * share:.0f}% {kind}" for kind, share in cell["failures"].items() if share),
                )
            )
    head = ("task", "complexity", "problems", "pass@1", "pass@k", "tokens a sample", "distinct", "failures")
    return table(head, rows)


def _judged_lines(result: Mapping[str, Any]) -> list[str]:  # Any: JSON values
    rows = [
        (task, cell["complexity"], cell["steps"], *(f"{cell[key]:.3f}" for key in ("good", "auc", "auc_at_one_depth")))
        for task, cell in result["judged"].items()
    ]
    return [
        f"Steps of fresh solutions by `{result['writer']}`, good if a right answer can still be reached from there. At",
        "one depth: among first steps, among second steps, and so on, which is what a choice among rivals needs.",
        "",
        *table(("task", "complexity", "steps", "good", "AUC", "AUC at one depth"), rows),
    ]


def _share(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _grid(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``task=2,4,6`` words; all complexities of all tasks for none."""
    if not words:
        return {name: task.complexities for name, task in TASKS.items()}
    named = (word.partition("=") for word in words)
    return {
        name: tuple(map(int, numbers.split(","))) if numbers else TASKS[name].complexities for name, _, numbers in named
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, help="GGUF files; the committed models by default")
    parser.add_argument(
        "--grid", nargs="*", default=[], metavar="TASK=2,4", help="all tasks and complexities by default"
    )
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="drawn now by default")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    stored = options.out / "lab.json"
    results: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    for path in options.models or [weights_path(name) for name in (*GENERATORS, REWARD_MODEL)]:
        is_generator = path.stem != REWARD_MODEL
        work = evaluate(path, _grid(options.grid), options) if is_generator else judge(path, _writer(path), options)
        results[path.stem] = asyncio.run(work)
        write(options.out, "lab", results, page(results))


def _writer(reward_model: Path) -> Path:
    return reward_model.with_name("small.gguf")


if __name__ == "__main__":
    main()
