"""Trains the process reward model: the probability of "+" after the tag that follows each step.

``python3 bench/lab/bare.py prm --weights FOLDER --out OUT --minutes 16``: ``FOLDER`` holds ``small.pt`` and
``large.pt`` as `train` left them; solutions of both are labelled by rollouts of the larger one, which is then trained
further, on the labels, and judged on dev problems. Leaves ``OUT/prm.pt`` and ``OUT/prm.jsonl``; labels are kept in
``OUT`` too, and used by the next run.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from orchestrator.bench.lab.auc import auc
from orchestrator.bench.lab.checkpoint import load, save
from orchestrator.bench.lab.data import document_bias
from orchestrator.bench.lab.labels import Labelled, labelled
from orchestrator.bench.lab.model import Llama
from orchestrator.bench.lab.tokenizer import BOS, MINUS, PAD, PLUS, STEP_END, TAG, encode, prompt_ids
from orchestrator.bench.lab.train import Log, Optimizers, learning_rate, step_of
from orchestrator.bench.tasks import TASKS, Split

ROW_TOKENS = 192
"""Longer than the generators' rows: there is a tag for every step."""
_PEAK = 0.3
"""Of the learning rate that the model was trained with before."""


def tagged(problem: str, steps: Sequence[str]) -> bytes:
    """What the model reads: every step ends as it was written, the last one without a delimiter; a tag after each."""
    ids = bytearray(prompt_ids(problem))
    for index, step in enumerate(steps):
        ids += encode(step)
        if index + 1 < len(steps):
            ids.append(STEP_END)
        ids.append(TAG)
    return bytes(ids)


def pack(items: Sequence[Labelled]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Rows of ids, and the id to be learnt after each tag (-100 elsewhere); what is too long for a row is left out."""
    documents = [(tagged(item.problem, item.steps), item.num_good) for item in items]
    documents = sorted((d for d in documents if len(d[0]) <= ROW_TOKENS), key=lambda document: -len(document[0]))
    rows: list[bytearray] = []
    labels: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    for ids, num_good in documents:
        room = next((room for room in range(len(ids), ROW_TOKENS) if by_room.get(room)), None)
        if room is None:
            index = len(rows)
            rows.append(bytearray())
            labels.append([])
        else:
            index = by_room[room].pop()
        rows[index] += ids
        tags = iter([PLUS] * num_good + [MINUS] * ids.count(TAG))
        labels[index] += [next(tags) if token == TAG else -100 for token in ids]
        by_room.setdefault(ROW_TOKENS - len(rows[index]), []).append(index)
    packed = np.full((len(rows), ROW_TOKENS), PAD, np.uint8)
    targets = np.full((len(rows), ROW_TOKENS), -100, np.int64)
    for index, row in enumerate(rows):
        packed[index, : len(row)] = np.frombuffer(row, np.uint8)
        targets[index, : len(row)] = labels[index]
    return packed, targets


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
            [float(logits[i, at]) for at, token in enumerate(text) if token == TAG] for i, text in enumerate(texts)
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
        true: list[bool] = []
        rolled: list[bool] = []
        for item, values in zip(kept, scores, strict=True):
            if name in (item.task, "all"):
                flat += values
                rolled += [index < item.num_good for index in range(len(item.steps))]
                task = TASKS[item.task]
                true += [task.can_finish(item.problem, item.steps[: end + 1]) for end in range(len(item.steps))]
        result[name] = {
            "steps": len(flat),
            "good": round(float(np.mean(true)), 4) if true else None,
            "auc": round(auc(flat, true), 4),
            "auc_rollouts": round(auc(flat, rolled), 4),
            "labels_agree": round(float(np.mean(np.asarray(true) == np.asarray(rolled))), 4) if true else None,
        }
    return result


def collect(options: argparse.Namespace, log: Log) -> tuple[list[Labelled], list[Labelled]]:
    """Labelled solutions of train and of dev problems: those kept in ``--out``, and as many more as the time allows."""
    folder, device = Path(options.weights), options.device
    kept = {split: Path(options.out) / f"labels-{split}.jsonl" for split in ("train", "dev")}
    found = {split: read_labels(path) for split, path in kept.items()}
    writers = [load(folder, name, device)[0].eval() for name in ("small", "large")]
    roller = writers[1]
    started, number = time.time(), 0
    while not found["train"] or time.time() - started < 60 * options.label_minutes:
        split: Split = "train" if len(found["dev"]) >= options.chunk // 2 else "dev"
        batch = labelled(
            writers[number % 2],
            roller,
            count=options.chunk if split == "train" else options.chunk // 4,
            split=split,
            num_rollouts=options.rollouts,
            seed=random.Random(f"{options.seed}/{len(found['train'])}/{len(found['dev'])}").randrange(2**31),
        )
        found[split] += batch
        write_labels(kept[split], batch)
        number += 1
        log.write(event="labelled", train=len(found["train"]), dev=len(found["dev"]))
    return found["train"], found["dev"]


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
    """Trains on labels until the time is up."""
    device = options.device
    model, facts = load(Path(options.weights), options.start, device)
    packed, labels = pack(items)
    rows, targets = torch.from_numpy(packed).to(device), torch.from_numpy(labels).to(device)
    log.write(event="packed", rows=len(rows), tags=int((targets != -100).sum()), plus=int((targets == PLUS).sum()))
    peak = _PEAK * model.size.learning_rate
    optimizers = Optimizers(model, peak, device)
    loss_of_step = step_of(model, device=device, is_compiled=options.compile)
    rng = random.Random(options.seed)
    started, end = time.time(), options.until - options.evaluation_s
    limit = options.epochs * len(rows) / options.batch_rows
    step, losses = 0, torch.zeros((), device=device)
    model.train()
    while (now := time.time()) < end and step < limit:
        progress = max((now - started) / max(end - started, 1e-9), step / limit)
        chosen = torch.tensor(rng.choices(range(len(rows)), k=options.batch_rows), device=device)
        loss = loss_of_step(*_inputs(rows[chosen]), targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizers.step(learning_rate(peak, step, progress))
        step += 1
        losses += loss.detach()
        if step % 100 == 0:
            log.write(
                step=step, loss=round(float(losses) / 100, 4), epochs=round(step * options.batch_rows / len(rows), 2)
            )
            losses = torch.zeros((), device=device)
    known = {
        **facts,
        "prm_steps": facts.get("prm_steps", 0) + step,
        "prm_s": round(facts.get("prm_s", 0.0) + time.time() - started, 1),
        "labelled": facts.get("labelled", 0) + len(items),
    }
    save(model, Path(options.out) / "prm.pt", known)
    result = judged(model, held_out)
    log.write(event="judged", dev=result)
    save(model, Path(options.out) / "prm.pt", {**known, "dev_auc": result})


def _inputs(block: Tensor) -> tuple[Tensor, Tensor]:
    tokens = block.long()
    return tokens, document_bias((tokens == BOS).cumsum(1), torch.bfloat16)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", required=True, help="folder with small and large, as train or export left them")
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", default="large", help="which of them is trained further: large, or prm to go on")
    parser.add_argument("--minutes", type=float, default=16.0, help="for everything")
    parser.add_argument("--label-minutes", type=float, default=7.0)
    parser.add_argument("--evaluation-s", type=float, default=30.0)
    parser.add_argument("--rollouts", type=int, default=4, help="of each step that is looked at")
    parser.add_argument("--chunk", type=int, default=2048, help="solutions labelled at once")
    parser.add_argument("--epochs", type=float, default=4.0, help="at most")
    parser.add_argument("--batch-rows", type=int, default=24)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
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
