"""Measures the embedded engine beside `llama_cpp.Llama` on the same model: one sequence, and eight samples of a prompt.

Run as `python -m orchestrator.bench.embedded_engine --model PATH`. Both sides are measured in turn in the same process
with the same threads, prompts and sampling; reading the prompt counts. Writes `embedded_engine.json` and `.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.engine import Finished, GenerateRequest, Prefilled, Prompt, SampleSpec, Span
from orchestrator.sampling import Sampling
from orchestrator.workers.llama_cpp import LlamaCppEngine, open_engine

NUM_SAMPLES = 8
TEMPERATURE = 0.8
STORY = (
    "Chapter {number}. The lighthouse keeper had not spoken to anyone since the autumn storms, and the village below "
    "had begun to tell stories about him. Some said he was writing a book about the sea, others that he was counting "
    "the ships that never came back. On the first clear morning of the year, a girl with a basket of bread climbed "
    "the four hundred steps to his door. She knocked three times, waited, and then heard a voice from the other side "
    "of the wood. The voice was old and friendly, and it said that"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What both sides are given: a GGUF file, threads, output tokens per sample, repetitions, KV cells."""

    model: Path
    threads: int
    tokens: int
    repetitions: int
    cells: int


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: output tokens, the seconds from the call to the last of them, CPU seconds of the process."""

    tokens: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return self.tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Output tokens per CPU second: what other processes on the machine disturb least."""
        return self.tokens / self.cpu_s


class Stopwatch:
    """Makes a `Run` of what happens until `stop`."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def stop(self, tokens: int) -> Run:
        """The measurement."""
        wall, cpu = self._started
        return Run(tokens, time.perf_counter() - wall, time.process_time() - cpu)


class Direct:
    """`llama_cpp.Llama` called directly, one completion after another; it reuses the prompt of the call before."""

    def __init__(self, setup: Setup) -> None:
        import llama_cpp

        self._tokens = setup.tokens
        self._model = llama_cpp.Llama(
            str(setup.model),
            n_ctx=setup.cells,
            n_threads=setup.threads,
            n_threads_batch=setup.threads,
            verbose=False,
        )

    def run(self, prompt: tuple[int, ...], num_samples: int) -> Run:
        """Samples of one prompt."""
        tokens = 0
        watch = Stopwatch()
        for seed in range(num_samples):
            reply: Any = self._model.create_completion(  # Any: a union with the streaming form
                list(prompt),
                max_tokens=self._tokens,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                repeat_penalty=1.0,
                seed=seed,
            )
            tokens += reply["usage"]["completion_tokens"]
        return watch.stop(tokens)


def sampled(engine: LlamaCppEngine, prompt: tuple[int, ...], num_samples: int, tokens: int) -> GenerateRequest:
    """A request for samples of one prompt."""
    return GenerateRequest(
        request_id=f"bench-{time.perf_counter_ns()}",
        prompt=Prompt((), (Span("", prompt, engine.describe().tokenizer),)),
        samples=tuple(SampleSpec(seed, tokens) for seed in range(num_samples)),
        sampling=Sampling(temperature=TEMPERATURE),
    )


async def run_engine(engine: LlamaCppEngine, prompt: tuple[int, ...], num_samples: int, tokens: int) -> Run:
    """Samples of one prompt, in one request; the prompt must not be in the cache."""
    request = sampled(engine, prompt, num_samples, tokens)
    written = 0
    watch = Stopwatch()
    async for event in engine.generate(request):
        if isinstance(event, Prefilled) and event.cached_tokens > 4:
            raise RuntimeError("the prompt was cached; the comparison would be unfair")
        if isinstance(event, Finished):
            written += event.output_tokens
    return watch.stop(written)


async def compare(setup: Setup, engine: LlamaCppEngine) -> dict[str, list[Run]]:
    """Both sides in turn; the first round warms up and is not kept."""
    direct = await asyncio.to_thread(Direct, setup)
    rounds: dict[str, list[Run]] = {}
    for repetition in range(setup.repetitions + 1):
        for num_samples in (1, NUM_SAMPLES):
            prompt = prompt_of(engine, 100 * repetition + num_samples)
            ours = await run_engine(engine, prompt, num_samples, setup.tokens)
            theirs = await asyncio.to_thread(direct.run, prompt, num_samples)
            if repetition:
                rounds.setdefault(f"engine_{num_samples}", []).append(ours)
                rounds.setdefault(f"direct_{num_samples}", []).append(theirs)
    return rounds


def prompt_of(engine: LlamaCppEngine, number: int) -> tuple[int, ...]:
    """A prompt that differs from all others from its start."""
    return engine.tokenize(f"{number}. " + STORY.format(number=number))


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that runs Python code without pause."""
    is_over = threading.Event()

    def spin() -> None:
        while not is_over.is_set():
            sum(range(500))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


async def under_load(setup: Setup, engine: LlamaCppEngine) -> dict[str, list[float]]:
    """Steps per second of one sequence: idle, beside a busy thread, and with a busy event loop."""
    rates: dict[str, list[float]] = {"idle": [], "busy_thread": [], "busy_event_loop": []}

    async def spin() -> None:
        while True:
            sum(range(500))
            await asyncio.sleep(0)

    for repetition in range(setup.repetitions):
        number = 10_000 + 10 * repetition
        rates["idle"].append((await run_engine(engine, prompt_of(engine, number), 1, setup.tokens)).rate)
        with busy_thread():
            rates["busy_thread"].append((await run_engine(engine, prompt_of(engine, number + 1), 1, setup.tokens)).rate)
        spinner = asyncio.ensure_future(spin())
        rates["busy_event_loop"].append((await run_engine(engine, prompt_of(engine, number + 2), 1, setup.tokens)).rate)
        spinner.cancel()
    return rates


async def prompt_counts(engine: LlamaCppEngine, tokens: int) -> dict[str, int]:
    """What the engine's counters say of a prompt that eight samples share, and of the same request once more."""
    prompt = prompt_of(engine, 20_000)
    counts = {"prompt": len(prompt)}
    for name in ("first", "again"):
        before = await engine.health()
        async for event in engine.generate(sampled(engine, prompt, NUM_SAMPLES, tokens)):
            if isinstance(event, Prefilled):
                counts[f"{name}_prefilled"], counts[f"{name}_prefilled_cached"] = (
                    event.prompt_tokens,
                    event.cached_tokens,
                )
        after = await engine.health()
        counts[f"{name}_counted"] = after.prompt_tokens - before.prompt_tokens
        counts[f"{name}_counted_cached"] = after.cached_prompt_tokens - before.cached_prompt_tokens
    return counts


async def measure(setup: Setup) -> dict[str, Any]:  # Any: JSON
    """All figures of one model."""
    engine = await open_engine(
        setup.model,
        name=setup.model.stem,
        num_threads=setup.threads,
        context_cells=setup.cells,
        max_sequences=32,
    )
    try:
        rounds = await compare(setup, engine)
        load = await under_load(setup, engine)
        counts = await prompt_counts(engine, 4)
        await engine.check_integrity()
        health = await engine.health()
    finally:
        await engine.aclose()
    rates = {name: [run.rate for run in runs] for name, runs in rounds.items()}
    cpu_rates = {name: [run.cpu_rate for run in runs] for name, runs in rounds.items()}
    return {
        "model": setup.model.name,
        "setup": {name: value for name, value in asdict(setup).items() if name != "model"},
        "tokens_per_s": {name: spread(values) for name, values in rates.items()},
        "tokens_per_cpu_s": {name: spread(values) for name, values in cpu_rates.items()},
        "ratio_to_direct": ratios(rates),
        "cpu_ratio_to_direct": ratios(cpu_rates),
        "output_tokens": {name: [run.tokens for run in runs] for name, runs in rounds.items()},
        "under_load_tokens_per_s": {name: spread(values) for name, values in load.items()},
        "prompt_tokens_of_8_samples": counts,
        "resident_cells": health.resident_kv_cells,
        "peak_cells": health.peak_kv_cells,
        "recomputed_tokens": health.recomputed_tokens,
        "integrity": "the engine's sequences and llama.cpp's positions agree",
        **provenance(),
    }


def ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Engine by direct, round by round."""
    return {
        str(n): spread([ours / theirs for ours, theirs in zip(rates[f"engine_{n}"], rates[f"direct_{n}"], strict=True)])
        for n in (1, NUM_SAMPLES)
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def provenance() -> dict[str, Any]:  # Any: JSON
    """Where, when and of what."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        finished = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603, S607
        return finished.stdout.strip()

    import llama_cpp

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") or "unknown",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "load_average_1min": os.getloadavg()[0],
        "llama_cpp_python": llama_cpp.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def page(results: list[dict[str, Any]]) -> str:  # Any: JSON
    """The figures as Markdown."""
    lines = [
        "# Embedded engine",
        "",
        "Output tokens per second, reading the prompt included: the embedded engine and `llama_cpp.Llama` called",
        "directly, in turn in one process. Median (range) of the repetitions. Where the load average is above the",
        "number of cores, other work shared the machine: ratios, above all those per CPU second, say more than rates.",
        "Made by `python -m orchestrator.bench.embedded_engine`.",
    ]
    for result in results:
        rates, setup, load = result["tokens_per_s"], result["setup"], result["under_load_tokens_per_s"]
        lines += [
            "",
            f"## {result['model']}",
            "",
            "| | engine | direct | engine / direct | the same per CPU second |",
            "|---|---|---|---|---|",
            *(
                f"| {label} | {_cell(rates[f'engine_{n}'])} | {_cell(rates[f'direct_{n}'])} "
                f"| {_cell(result['ratio_to_direct'][str(n)], 2)} | {_cell(result['cpu_ratio_to_direct'][str(n)], 2)} |"
                for n, label in ((1, "one sequence"), (NUM_SAMPLES, f"{NUM_SAMPLES} samples of one prompt"))
            ),
            "",
            "| one sequence while the process is | tokens per second |",
            "|---|---|",
            f"| idle | {_cell(load['idle'])} |",
            f"| running a busy Python thread | {_cell(load['busy_thread'])} |",
            f"| saturating its event loop | {_cell(load['busy_event_loop'])} |",
            "",
            _counts_line(result["prompt_tokens_of_8_samples"]),
            "",
            f"At most {setup['tokens']} tokens a sample, temperature {TEMPERATURE}, {setup['threads']} thread(s), "
            f"{setup['repetitions']} repetitions; {result['resident_cells']} of {setup['cells']} KV cells resident at "
            f"the end, {result['peak_cells']} at most; {result['integrity']}.",
            f"{result['machine']}; llama-cpp-python {result['llama_cpp_python']}; {result['date']}; "
            f"commit {result['commit']}; load average {result['load_average_1min']:.1f}.",
        ]
    return "\n".join(lines) + "\n"


def _counts_line(counts: dict[str, int]) -> str:
    return (
        f"{NUM_SAMPLES} samples of a prompt of {counts['prompt']} tokens: the engine counts {counts['first_counted']} "
        f"prompt tokens, {counts['first_counted_cached']} of them cached; the same request again counts "
        f"{counts['again_counted']}, {counts['again_counted_cached']} cached."
    )


def _cell(values: dict[str, float], digits: int = 1) -> str:
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f} to {values['max']:.{digits}f})"


def main() -> None:
    """Measures the models named and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, action="append", required=True, help="a GGUF file; may be given again")
    parser.add_argument("--threads", type=int, default=max((os.cpu_count() or 1) - 1, 1))
    parser.add_argument("--tokens", type=int, default=64, help="most output tokens of a sample")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cells", type=int, default=1024, help="KV cells; cached ones slow every step")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    options = parser.parse_args()
    results = []
    for model in options.model:
        setup = Setup(model, options.threads, options.tokens, options.repetitions, options.cells)
        results.append(asyncio.run(measure(setup)))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "embedded_engine.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = page(results)
    (options.out / "embedded_engine.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
