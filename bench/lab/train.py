"""Trains the lab's generators, side by side on one device, within a time box.

``python3 bench/lab/bare.py train --out OUT --minutes 9 --device cuda`` starts processes that write problems, and one
process a model; each leaves ``OUT/NAME.pt``, and all of them add to ``OUT/train.jsonl``. ``--resume FOLDER`` goes on
from the models in a folder (``bench/lab/weights``, say); the learning rate then rises and falls once more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.bench.lab.accuracy import FULL, QUICK, Grid, accuracy, brief
from orchestrator.bench.lab.checkpoint import load, save
from orchestrator.bench.lab.data import ROW_TOKENS, SHARES, Shards, batch_of, start_writers
from orchestrator.bench.lab.model import SIZES, Llama

_WARMUP_STEPS = 100
_SAVE_EVERY_S = 45.0
_FINAL_SHARE = 0.02
"""Of the peak learning rate, reached when the time is up."""
_GRACE_S = 120.0
_GPU_LANES = ({"draft": 0.35}, {"small": 0.7}, {"large": 1.0})
_CPU_LANES = ({"draft": 0.2, "small": 0.8}, {"large": 1.0})
"""Lanes run side by side, the models of a lane one after the other, each for a share of the time. On a GPU, which all
of them share, what the smaller ones leave goes to the larger ones."""


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up by steps, then a cosine by the share of the time that is used up."""
    cosine = _FINAL_SHARE + (1 - _FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / _WARMUP_STEPS) * cosine


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for the embedding and the vectors.

    Muon (Jordan et al., 2024, PyTorch's own) reaches a given loss in fewer steps than AdamW alone does.
    """

    def __init__(self, model: nn.Module, peak: float, device: str) -> None:
        inner = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embedding" not in name]
        embedding = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embedding" in name]
        vectors = [weight for weight in model.parameters() if weight.dim() != 2]
        groups = [{"params": embedding, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self._all: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(inner, lr=peak, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=device == "cuda"),
        )

    def step(self, learning_rate: float) -> None:
        """One update from the gradients, which are emptied."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the targets that are not -100."""
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)


Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From tokens, bias and targets to the loss."""


def step_of(model: Llama, *, device: str, is_compiled: bool) -> Step:
    """The forward pass with its loss; compiled if that works here."""

    def plain(tokens: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return loss_of(model(tokens, bias), targets)

    if not is_compiled:
        return plain
    compiled: Step | None = torch.compile(plain, dynamic=False)

    def guarded(tokens: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        nonlocal compiled
        if compiled is not None:
            try:
                return compiled(tokens, bias, targets)
            except Exception as error:  # noqa: BLE001  # a compiler may fail in any way; training goes on without it
                print(f"not compiled: {str(error)[:500]}", flush=True)
                compiled = None
        return plain(tokens, bias, targets)

    return guarded


class Log:
    """Lines of JSON that several processes add to one file."""

    def __init__(self, path: Path, **facts: object) -> None:
        self._path = path
        self._facts = facts
        self._started = time.monotonic()

    def write(self, **facts: object) -> None:
        """Adds a line, and prints it."""
        line = json.dumps({**self._facts, "s": round(time.monotonic() - self._started, 1), **facts})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line[:600], flush=True)


def train_one(name: str, options: argparse.Namespace) -> None:
    """Trains one model until ``options.until``, evaluation included."""
    device, out = options.device, Path(options.out)
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    log = Log(out / "train.jsonl", model=name)
    model = Llama(SIZES[name]).to(device)
    facts: dict[str, Any] = {"steps": 0, "tokens": 0, "train_s": 0.0, "seeds": []}  # Any: JSON values
    if options.resume:
        model, facts = load(Path(options.resume), name, device)
    optimizers = Optimizers(model, model.size.learning_rate, device)
    shards = Shards(Path(options.work), device)
    while not shards.num_rows:
        time.sleep(0.2)
        shards.refresh()
    rng = random.Random(f"{options.seed}/{name}")
    batches = shards.batches(rng, options.batch_rows)
    step_loss = step_of(model, device=device, is_compiled=options.compile)
    started, last_saved, last_checked = time.time(), time.time(), time.time()
    end = options.until - options.evaluation_s
    step, tokens, losses = 0, 0, torch.zeros((), device=device)
    window = 0
    quick_every_s = max((end - started) / 4, 20.0)

    def known() -> dict[str, Any]:  # Any: JSON values
        return {
            **facts,
            "steps": facts["steps"] + step,
            "tokens": facts["tokens"] + tokens,
            "train_s": round(facts["train_s"] + time.time() - started, 1),
            "seeds": [*facts["seeds"], options.seed],
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "parameters": model.num_parameters,
            "learning_rate": model.size.learning_rate,
        }

    while (now := time.time()) < end:
        progress = (now - started) / max(end - started, 1e-9)
        batch = batch_of(next(batches), torch.bfloat16)
        loss = step_loss(batch.tokens, batch.bias, batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizers.step(learning_rate(model.size.learning_rate * options.peak, step, progress))
        step += 1
        window += 1
        tokens += options.batch_rows * ROW_TOKENS
        losses += loss.detach()
        if step % 200 == 0 or step in {1, 20}:
            log.write(step=step, tokens=tokens, loss=round(float(losses) / window, 4), rows=shards.num_rows)
            losses, window = torch.zeros((), device=device), 0
            shards.refresh()
        if step % 25 == 0 and now - last_saved > _SAVE_EVERY_S:
            save(model, out / f"{name}.pt", known())
            last_saved = now
        if step % 25 == 0 and now - last_checked > quick_every_s and end - now > 15:
            last_checked = now
            _check(model, QUICK, log, num_problems=32, num_samples=1)
    save(model, out / f"{name}.pt", known())
    log.write(step=step, tokens=tokens, seconds=round(time.time() - started, 1), event="trained")
    if options.evaluation_s:
        full = _check(
            model, FULL, log, num_problems=options.eval_problems, num_samples=options.eval_samples, is_greedy_too=False
        )
        save(model, out / f"{name}.pt", {**known(), "dev": full})


def _check(
    model: Llama, grid: Grid, log: Log, *, num_problems: int, num_samples: int, is_greedy_too: bool = True
) -> dict[str, Any]:  # Any: JSON values
    model.eval()
    started = time.time()
    sampled = accuracy(model, grid, num_problems=num_problems, num_samples=num_samples, temperature=1.0, seed=7)
    log.write(temperature=1.0, brief=brief(sampled), dev=sampled, seconds=round(time.time() - started, 1))
    if is_greedy_too:
        greedy = accuracy(model, grid, num_problems=num_problems, num_samples=1, temperature=0.0, seed=7)
        log.write(temperature=0.0, brief=brief(greedy))
    model.train()
    return sampled


def train_all(options: argparse.Namespace) -> int:
    """Starts writers and the lanes of models, waits for them, and says how many models failed."""
    work = Path(options.work or tempfile.mkdtemp(prefix="lab-"))
    writers = start_writers(
        work,
        seed=options.seed,
        num_workers=options.workers,
        rows_per_shard=options.shard_rows,
        shares=SHARES if options.shares is None else dict(zip(SHARES, options.shares, strict=True)),
    )
    lanes = _GPU_LANES if options.device == "cuda" else _CPU_LANES
    with ThreadPoolExecutor(len(lanes)) as pool:
        failed = sum(pool.map(lambda lane: _train_lane(lane, work, options), lanes))
    for writer in writers:
        writer.terminate()
        writer.join()
    shutil.rmtree(work, ignore_errors=True)
    return failed


def _train_lane(lane: Mapping[str, float], work: Path, options: argparse.Namespace) -> int:
    command = [sys.executable, str(Path(__file__).with_name("bare.py")), "train", *sys.argv[1:], "--work", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TORCHINDUCTOR_COMPILE_THREADS": "4"}
    shares = {name: share for name, share in lane.items() if name in options.models}
    seconds = (options.until - time.time()) / max(sum(shares.values()), 1.0)
    failed = 0
    for name, share in shares.items():
        until = time.time() + seconds * share
        child = subprocess.Popen([*command, "--only", name, "--until", str(until)], env=environment)  # noqa: S603  # our own words
        try:
            failed += child.wait(seconds * share + _GRACE_S) != 0
        except subprocess.TimeoutExpired:
            child.kill()
            failed += 1
    return failed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True, help="where models and the log are written")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything, evaluation included")
    parser.add_argument("--models", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--resume", help="a folder with models to go on from, as training or export left them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 2) - 6, 1), help="that write problems")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU, for each model")
    parser.add_argument("--batch-rows", type=int, default=24, help=f"rows of {ROW_TOKENS} tokens a step")
    parser.add_argument("--shard-rows", type=int, default=8192)
    parser.add_argument(
        "--shares",
        type=float,
        nargs=len(SHARES),
        metavar=tuple(name.upper() for name in SHARES),
        help=f"of documents, by task; {' '.join(map(str, SHARES.values()))} by default",
    )
    parser.add_argument("--peak", type=float, default=1.0, help="times the learning rate of the size")
    parser.add_argument("--evaluation-s", type=float, default=60.0, help="kept for the last evaluation; 0 for none")
    parser.add_argument("--eval-problems", type=int, default=96)
    parser.add_argument("--eval-samples", type=int, default=16)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help="folder for training rows; a temporary one by default")
    parser.add_argument("--only", choices=list(SIZES), help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.until = options.until or time.time() + 60 * options.minutes
    Path(options.out).mkdir(parents=True, exist_ok=True)
    if options.only:
        train_one(options.only, options)
    else:
        sys.exit(train_all(options))


if __name__ == "__main__":
    main()
