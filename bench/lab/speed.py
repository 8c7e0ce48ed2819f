"""How fast the lab's models write in the embedded engine, by how many sequences are written at once.

``python -m orchestrator.bench.lab.speed``: samples of fresh problems of all tasks at their default complexity, 64 of
each as in a recorded pool, at temperature 1; all widths in turn, and `llama_cpp.Llama` called directly, one sample
after another. Writes `lab_speed.json` and `lab_speed.md`; says so and ends where the files of the models are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.bench.embedded_engine import Run, Stopwatch
from orchestrator.bench.lab.model_names import GENERATORS, weights_path
from orchestrator.bench.report import PUBLISHED, cell, machine, machine_line, spread, table, write
from orchestrator.bench.tasks import TASKS
from orchestrator.engine import Finished, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.sampling import Sampling
from orchestrator.workers.llama_cpp import LlamaCppEngine, open_engine

WIDTHS = (1, 8, 16, 32)
_SAMPLES = 64
_MAX_TOKENS = 128
_CELLS = 16384


def problems(seed: int) -> Iterator[str]:
    """Problems of the tasks in turn, without end."""
    rng = random.Random(seed)
    for task in itertools.cycle(TASKS.values()):
        yield task.example(rng, task.default_complexity).problem


async def engine_run(engine: LlamaCppEngine, asked: Iterator[str], *, num_samples: int, seconds: float) -> Run:
    """Problems one after another, until the time is over."""
    written = 0
    watch = Stopwatch()
    while written == 0 or watch.stop(written).seconds < seconds:
        problem = next(asked)
        request = GenerateRequest(
            request_id=problem,
            prompt=Prompt((Message("user", problem),)),
            samples=tuple(SampleSpec(seed, _MAX_TOKENS) for seed in range(num_samples)),
            sampling=Sampling(temperature=1.0),
        )
        async for event in engine.generate(request):
            if isinstance(event, Finished):
                written += event.output_tokens
    return watch.stop(written)


def direct_run(model: Any, asked: Iterator[str], *, seconds: float) -> Run:  # Any: llama_cpp.Llama
    """One sample of each problem, until the time is over."""
    written = 0
    watch = Stopwatch()
    while written == 0 or watch.stop(written).seconds < seconds:
        text = next(asked) + "\n"
        reply = model.create_completion(text, max_tokens=_MAX_TOKENS, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
        written += reply["usage"]["completion_tokens"]
    return watch.stop(written)


async def measure(path: Path, *, repetitions: int, seconds: float) -> dict[str, Any]:  # Any: JSON values
    """One model; the first round warms up and is not kept."""
    import llama_cpp

    engines = {
        width: await open_engine(path, name=path.stem, num_threads=1, context_cells=_CELLS, max_sequences=width)
        for width in WIDTHS
    }
    direct = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False)
    runs: dict[str, list[Run]] = {}
    asked = problems(seed=1)
    try:
        for repetition in range(repetitions + 1):
            for width, engine in engines.items():
                num_samples = _SAMPLES if width > 1 else 1
                run = await engine_run(engine, asked, num_samples=num_samples, seconds=seconds)
                if repetition:
                    runs.setdefault(str(width), []).append(run)
            run = await asyncio.to_thread(direct_run, direct, asked, seconds=seconds)
            if repetition:
                runs.setdefault("direct", []).append(run)
    finally:
        for engine in engines.values():
            await engine.check_integrity()
            await engine.aclose()
    return {
        "tokens_per_s": {name: spread([run.rate for run in each]) for name, each in runs.items()},
        "tokens_per_cpu_s": {name: spread([run.cpu_rate for run in each]) for name, each in runs.items()},
    }


def page(result: Mapping[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    rows = []
    for name, model in result["models"].items():
        wall, cpu = model["tokens_per_s"], model["tokens_per_cpu_s"]
        for kind in wall:
            label = f"engine, {kind} at once" if kind != "direct" else "`llama_cpp.Llama`, one by one"
            rows.append((name, label, cell(wall[kind], 0), cell(cpu[kind], 0)))
    lines = [
        "# Speed of the lab's models",
        "",
        "Output tokens per second in the embedded engine with one thread, prompts included: problems of all tasks at",
        f"their default complexity, {_SAMPLES} samples of each (one where one sequence is written at a time),",
        "temperature 1. Median (range) of the repetitions, all widths in turn. CPU seconds are those of the whole",
        "process, event loop included. Made by `python -m orchestrator.bench.lab.speed`.",
        "",
        *table(("model", "sequences", "tokens per second", "tokens per CPU second"), rows),
        "",
        machine_line(result),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=GENERATORS, choices=GENERATORS)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    paths = [weights_path(name) for name in options.models]
    if missing := [str(path) for path in paths if not path.is_file()]:
        print(f"skipped: there is no {', '.join(missing)}; bench/lab/README.md says how to train", file=sys.stderr)
        return
    facts = machine()
    models = {
        path.stem: asyncio.run(measure(path, repetitions=options.repetitions, seconds=options.seconds))
        for path in paths
    }
    result = {**facts, "repetitions": options.repetitions, "seconds": options.seconds, "models": models}
    write(options.out, "lab_speed", result, page(result))
    print(page(result))


if __name__ == "__main__":
    main()
