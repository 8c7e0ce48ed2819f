"""Trains the process reward model: the probability of "+" after the blank line that ends each step.

``python3 bench/lab/bare.py prm --weights FOLDER --out OUT --minutes 40``: ``FOLDER`` holds ``small.pt`` and
``large.pt`` as `train` left them; solutions of both are labelled, by rollouts of the larger one as long as the time for
that lasts and then by the tasks' checkers. The larger one is trained further on the labels, and judged on dev problems.
Leaves ``OUT/prm.pt`` and ``OUT/prm.jsonl``; labels are kept in ``OUT`` too, and used by the next run.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.bench.lab.auc import auc, auc_within
from orchestrator.bench.lab.checkpoint import load, save
from orchestrator.bench.lab.labels import Labelled, labelled
from orchestrator.bench.lab.model import Llama
from orchestrator.bench.lab.tokenizer import MINUS, PAD, PLUS, STEP_END, encode, prompt_ids
from orchestrator.bench.lab.train import Log, Optimizers, learning_rate
from orchestrator.bench.tasks import TASKS, Split

MOST_TOKENS = 192
"""Of a problem and its solution; longer ones are no use for training."""


def tagged(problem: str, steps: Sequence[str]) -> bytes:
    """What the model reads: the solution as it was written, and a blank line after the last step too.

    That line is the step tag. A tag of its own would come between the steps, where the generator that this model grows
    out of has never seen one.
    """
    ids = bytearray(prompt_ids(problem))
    for step in steps:
        ids += encode(step)
        ids.append(STEP_END)
    return bytes(ids)


class Batch(NamedTuple):
    """Solutions of about one length.

    Attributes:
        tokens: Ids [solutions, length], padded at the end.
        is_bad: After each step: 0 for "+", 1 for "-"; -100 elsewhere, [solutions, length].
    """

    tokens: Tensor
    is_bad: Tensor


def batches(items: Sequence[Labelled], rng: random.Random, *, batch_tokens: int = 4096) -> list[Batch]:
    """All solutions once, in random order, those of about one length together; what is too long is left out."""
    documents = [(tagged(item.problem, item.steps), item.num_good) for item in items]
    documents = [document for document in documents if len(document[0]) <= MOST_TOKENS]
    documents.sort(key=lambda document: len(document[0]) + 4 * rng.random())
    made: list[Batch] = []
    while documents:
        count = max(batch_tokens // len(documents[-1][0]), 1)
        made.append(_batch(documents[-count:]))
        del documents[-count:]
    rng.shuffle(made)
    return made


def _batch(documents: Sequence[tuple[bytes, int]]) -> Batch:
    length = max(len(ids) for ids, _ in documents)
    tokens = torch.full((len(documents), length), PAD, dtype=torch.uint8)
    is_bad = torch.full((len(documents), length), -100, dtype=torch.int8)
    for row, (ids, num_good) in enumerate(documents):
        tokens[row, : len(ids)] = torch.frombuffer(bytearray(ids), dtype=torch.uint8)
        ends = [index for index, token in enumerate(ids) if token == STEP_END]
        is_bad[row, ends] = torch.tensor([step >= num_good for step in range(len(ends))], dtype=torch.int8)
    return Batch(tokens, is_bad)


@torch.no_grad()
def step_scores(model: Llama, items: Sequence[Labelled], *, batch_rows: int = 512) -> list[list[float]]:
    """P("+") among "+" and "-" after each step."""
    device = model.rotation.device
    scores: list[list[float]] = []
    for start in range(0, len(items), batch_rows):
        texts = [tagged(item.problem, item.steps) for item in items[start : start + batch_rows]]
        width = max(map(len, texts))
        tokens = torch.tensor([list(text + bytes([PAD]) * (width - len(text))) for text in texts], device=device)
        logits = model(tokens).float()[..., [PLUS, MINUS]].softmax(-1)[..., 0].cpu()
        scores += [
            [float(logits[i, at]) for at, token in enumerate(text) if token == STEP_END] for i, text in enumerate(texts)
        ]
    return scores


def judged(model: Llama, items: Sequence[Labelled]) -> dict[str, Any]:  # Any: JSON values
    """Step AUC by task: against what is true (a right answer can still be reached), and against the rollouts."""
    model.eval()
    kept = [item for item in items if len(tagged(item.problem, item.steps)) <= model.rotation.shape[1]]
    scores = step_scores(model, kept)
    result: dict[str, Any] = {}
    for name in (*TASKS, "all"):
        flat: list[float] = []
        places: list[int] = []
        true: list[bool] = []
        rolled: list[bool] = []
        for item, values in zip(kept, scores, strict=True):
            if name in (item.task, "all"):
                flat += values
                places += range(len(values))
                rolled += [index < item.num_good for index in range(len(item.steps))]
                task = TASKS[item.task]
                true += [task.can_finish(item.problem, item.steps[: end + 1]) for end in range(len(item.steps))]
        result[name] = {
            "steps": len(flat),
            "good": round(float(np.mean(true)), 4) if true else None,
            "auc": round(auc(flat, true), 4),
            "auc_at_one_depth": round(auc_within(flat, true, places), 4),
            "auc_rollouts": round(auc(flat, rolled), 4),
            "labels_agree": round(float(np.mean(np.asarray(true) == np.asarray(rolled))), 4) if true else None,
        }
    return result


def collect(options: argparse.Namespace, log: Log) -> tuple[list[Labelled], list[Labelled]]:
    """Labelled solutions of train and of dev problems: those kept in ``--out``, and as many more as are asked for.

    Dev solutions and, for as long as ``--label-minutes`` say, train solutions are labelled by rollouts; then train
    solutions by the checkers, up to ``--checked`` in all.
    """
    folder, device = Path(options.weights), options.device
    kept = {split: Path(options.out) / f"labels-{split}.jsonl" for split in ("train", "dev")}
    found = {split: read_labels(path) for split, path in kept.items()}
    small, large = (load(folder, name, device)[0].eval() for name in ("small", "large"))
    started, number = time.time(), 0
    while True:
        is_time_left = time.time() - started < 60 * options.label_minutes
        if not is_time_left and found["train"] and len(found["train"]) >= options.checked:
            return found["train"], found["dev"]
        split: Split = "train" if len(found["dev"]) >= options.chunk // 2 else "dev"
        batch = labelled(
            large if number % 4 == 3 else small,
            large if is_time_left or split == "dev" else None,
            count=options.chunk if split == "train" else options.chunk // 4,
            split=split,
            num_rollouts=options.rollouts,
            seed=random.Random(f"{options.seed}/{len(found['train'])}/{len(found['dev'])}").randrange(2**31),
        )
        found[split] += batch
        write_labels(kept[split], batch)
        number += 1
        log.write(event="labelled", train=len(found["train"]), dev=len(found["dev"]))


def read_labels(path: Path) -> list[Labelled]:
    """Labelled solutions of a file; none if there is no file."""
    if not path.exists():
        return []
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Labelled(**{**line, "steps": tuple(line["steps"])}) for line in lines]


def write_labels(path: Path, items: Sequence[Labelled]) -> None:
    """Adds labelled solutions to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(item)) + "\n" for item in items)


def train_prm(items: Sequence[Labelled], held_out: Sequence[Labelled], options: argparse.Namespace, log: Log) -> None:
    """Trains on labels until the time is up, or so many times on each."""
    device = options.device
    model, facts = load(Path(options.weights), options.start, device)
    rng = random.Random(options.seed)
    waiting = batches(items, rng)
    epoch_batches = len(waiting)
    log.write(event="batched", solutions=len(items), batches=epoch_batches)
    peak = options.peak * model.size.learning_rate
    optimizers = Optimizers(model, peak, device)
    started, end = time.time(), options.until - options.evaluation_s
    limit = options.epochs * epoch_batches
    step, losses = 0, torch.zeros((), device=device)
    model.train()
    while (now := time.time()) < end and step < limit:
        if not waiting:
            items = read_labels(Path(options.out) / "labels-train.jsonl")  # another process may have added some
            waiting = batches(items, rng)
        loss = verdict_loss(model, waiting.pop())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        progress = max((now - started) / max(end - started, 1e-9), step / limit)
        optimizers.step(learning_rate(peak, step, progress))
        step += 1
        losses += loss.detach()
        if step % 100 == 0:
            log.write(step=step, loss=round(float(losses) / 100, 4), epochs=round(step / epoch_batches, 2))
            losses = torch.zeros((), device=device)
        if step % 1000 == 0:
            log.write(step=step, event="judged", dev=judged(model, held_out[:600]))
            save(model, Path(options.out) / "prm.pt", {**facts, "prm_steps": facts.get("prm_steps", 0) + step})
            model.train()
    known = {
        **facts,
        "prm_steps": facts.get("prm_steps", 0) + step,
        "prm_s": round(facts.get("prm_s", 0.0) + time.time() - started, 1),
        "labelled": len(items),
    }
    save(model, Path(options.out) / "prm.pt", known)
    result = judged(model, held_out)
    log.write(event="judged", dev=result)
    save(model, Path(options.out) / "prm.pt", {**known, "dev_auc": result})


def verdict_loss(model: Llama, batch: Batch) -> Tensor:
    """Cross entropy of "+" against "-" after each step, and of these two against all else that might be said there."""
    device = model.rotation.device
    tokens, is_bad = batch.tokens.to(device).long(), batch.is_bad.to(device).long()
    length = tokens.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    bias = torch.zeros(1, 1, length, length, dtype=torch.bfloat16, device=device).masked_fill_(later, float("-inf"))
    is_verdict = is_bad != -100
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(tokens, bias)[is_verdict].float()
    verdicts = logits[:, [PLUS, MINUS]]
    # Servers show the likeliest tokens only, so these two have to be among them.
    all_else = (logits.logsumexp(-1) - verdicts.logsumexp(-1)).mean()
    return functional.cross_entropy(verdicts, is_bad[is_verdict]) + all_else


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", required=True, help="folder with small and large, as train or export left them")
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", default="large", help="which of them is trained further: large, or prm to go on")
    parser.add_argument("--minutes", type=float, default=40.0, help="for everything")
    parser.add_argument("--label-minutes", type=float, default=7.0)
    parser.add_argument("--evaluation-s", type=float, default=30.0)
    parser.add_argument("--checked", type=int, default=40_960, help="train solutions in all, labelled by checkers")
    parser.add_argument("--rollouts", type=int, default=3, help="of each step that is looked at")
    parser.add_argument("--chunk", type=int, default=2048, help="solutions labelled at once")
    parser.add_argument("--epochs", type=float, default=4.0, help="at most")
    parser.add_argument("--peak", type=float, default=0.3, help="of the learning rate the model was trained with")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.until = time.time() + 60 * options.minutes
    Path(options.out).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    log = Log(Path(options.out) / "prm.jsonl", model="prm")
    items, held_out = collect(options, log)
    train_prm(items, held_out, options, log)


if __name__ == "__main__":
    main()
