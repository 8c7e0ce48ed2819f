"""How often the lab's models solve fresh problems in the embedded engine, by task and complexity, with intervals.

``python -m orchestrator.bench.lab.evaluate [MODEL.gguf ...]``: problems of the test split are drawn with a seed of the
moment, which is recorded. Writes `lab.json` and `lab.md`; models that are not named keep their rows.
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

from orchestrator.bench.estimates import interval, pass_at
from orchestrator.bench.lab.model_names import GENERATORS, weights_path
from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.tasks import TASKS, Split, draw_distinct, is_solved
from orchestrator.engine import Delta, Engine, Finished, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.sampling import Sampling, derived_seed
from orchestrator.workers.llama_cpp import open_engine

_MAX_TOKENS = 320
_PARALLEL_SEQUENCES = 32


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of one problem: how many, how many are right, and their tokens."""

    total: int
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
    return Samples(num_samples, right, tokens)


def cell_of(samples: Sequence[Samples]) -> dict[str, Any]:  # Any: JSON values
    """Pass@k for every power of 4 up to the number of samples."""
    total = samples[0].total
    widths = [k for k in (1, 4, 16, 64, 256) if k <= total]
    return {
        "problems": len(samples),
        "samples": total,
        "tokens_per_sample": round(sum(sample.tokens for sample in samples) / len(samples) / total, 1),
        **{f"pass@{k}": interval([pass_at(k, total, sample.right) for sample in samples]) for k in widths},
    }


async def evaluate(
    path: Path, grid: Mapping[str, Sequence[int]], *, options: argparse.Namespace
) -> dict[str, Any]:  # Any: JSON values
    """All cells of one model."""
    engine = await open_engine(
        path, name=path.stem, num_threads=options.threads, context_cells=16384, max_sequences=_PARALLEL_SEQUENCES
    )
    started, tokens = time.monotonic(), 0
    cells: dict[str, dict[str, Any]] = {}
    split: Split = options.split
    try:
        for task, complexities in grid.items():
            for complexity in complexities:
                rng = random.Random(f"{options.seed}/{task}/{complexity}")
                problems = draw_distinct(TASKS[task], rng, complexity, split, options.problems)
                samples = [
                    await sample_problem(engine, task, problem, num_samples=options.samples, seed=options.seed)
                    for problem in problems
                ]
                tokens += sum(sample.tokens for sample in samples)
                cells.setdefault(task, {})[str(complexity)] = cell = cell_of(samples)
                print(path.stem, task, complexity, json.dumps(cell["pass@1"]), flush=True)
    finally:
        await engine.aclose()
    return {
        "cells": cells,
        "split": split,
        "seed": options.seed,
        "threads": options.threads,
        "tokens_per_s": round(tokens / (time.monotonic() - started), 1),
        **machine(),
    }


def page(results: Mapping[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    lines = [
        "# The lab's models",
        "",
        "Share of fresh problems solved at temperature 1 in the embedded engine (95% bootstrap interval over",
        "problems); pass@k is estimated without bias from all samples of a problem.",
        "Made by `python -m orchestrator.bench.lab.evaluate`.",
    ]
    for name, result in results.items():
        lines += ["", f"## {name}", ""]
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
                    )
                )
        lines += table(("task", "complexity", "problems", "pass@1", "pass@k", "tokens a sample"), rows)
        lines += [
            "",
            f"{result['split']} split, seed {result['seed']}, {result['threads']} thread(s), "
            f"{result['tokens_per_s']} output tokens per second. {machine_line(result)}",
        ]
    return "\n".join(lines) + "\n"


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
    parser.add_argument("models", nargs="*", type=Path, help="GGUF files; the committed generators by default")
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
    for path in options.models or [weights_path(name) for name in GENERATORS]:
        results[path.stem] = asyncio.run(evaluate(path, _grid(options.grid), options=options))
        write(options.out, "lab", results, page(results))


if __name__ == "__main__":
    main()
