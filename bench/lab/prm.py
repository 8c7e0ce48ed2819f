"""Trains the process reward model: the probability of "+" after the blank line that ends each step.

``python3 bench/lab/bare.py prm --weights FOLDER --out OUT --minutes 40``: ``FOLDER`` holds ``small.pt`` and
``large.pt`` as `train` left them; solutions of both are labelled, by rollouts of the larger one as long as the time for
that lasts and then by the tasks' checkers. Layers are put on top of the larger one and trained on the labels; the rest
stays as it is, and the result is judged on dev problems. The first layer on top is taught beforehand, and all along,
how likely the generator found each token of the solution (`comparing`): what tells a slip, said at every token.
Leaves ``OUT/prm.pt`` and ``OUT/prm.jsonl``; labels are kept in ``OUT`` too, and used by the next run.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.bench.lab.auc import auc, auc_within
from orchestrator.bench.lab.checkpoint import load, save
from orchestrator.bench.lab.comparing import Read, teach
from orchestrator.bench.lab.growing import deepened
from orchestrator.bench.lab.labels import Labelled, labelled
from orchestrator.bench.lab.model import NORM_EPS, Layer, Llama
from orchestrator.bench.lab.tokenizer import EQUALS, MINUS, PAD, PLUS, SEPARATOR, STEP_END, encode, prompt_ids
from orchestrator.bench.lab.train import Log, Optimizers, learning_rate
from orchestrator.bench.tasks import TASKS, Split

MOST_TOKENS = 192
"""Of a problem and its solution; longer ones are no use for training."""
_SURPRISE = 1.5
"""Weight of the second loss."""
_TAUGHT_SHARE = 0.1
"""Of the learning rate, for the layer that can do its part already."""
_LEAST_LIKELY = -8.0
"""Nats; what is less likely still is as surprising."""


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


class Surprise(nn.Module):
    """Guesses from a layer's output how likely the generator found the token just read; dropped after the training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(width))
        self.guess = nn.Linear(width, 1)

    def loss(self, state: Tensor, log_likelihood: Tensor, is_token: Tensor) -> Tensor:
        """Mean smooth L1 distance in nats over the tokens that count [rows, length]."""
        guess = self.guess(functional.rms_norm(state.float(), state.shape[-1:], self.norm, NORM_EPS))[..., 0]
        return functional.smooth_l1_loss(guess[is_token], log_likelihood[is_token])


def train_prm(items: Sequence[Labelled], held_out: Sequence[Labelled], options: argparse.Namespace, log: Log) -> None:
    """Trains on labels until the time is up: layers put on top of the model, or all of a model that has them."""
    device = options.device
    model, facts = load(Path(options.weights), options.start, device)
    training = _Training(items, options, log)
    if options.more_layers:
        below = model.size.layers
        read = [_read(model, batch) for batch in training.waiting[: options.compared]]
        model = deepened(model.cpu(), options.more_layers, _normed(read[:20]))
        first = model.layers[below]
        assert isinstance(first, Layer)
        teach(first, read, model.rotation, steps=options.compare_steps, seed=options.seed)
        model = model.to(device)
        loss, learners = top_loss(model, below)
    else:
        loss, learners = (lambda batch: verdict_loss(model, batch)), [Learner(model)]
    seconds = options.until - options.evaluation_s - time.time()
    training.run(model, loss, learners, seconds)
    known = {
        **facts,
        "prm_steps": facts.get("prm_steps", 0) + training.step,
        "prm_s": round(facts.get("prm_s", 0.0) + seconds, 1),
        "labelled": len(items),
    }
    save(model, Path(options.out) / "prm.pt", known)
    result = judged(model, held_out)
    log.write(event="judged", dev=result)
    save(model, Path(options.out) / "prm.pt", {**known, "dev_auc": result})


class Learner(NamedTuple):
    """What learns, and at which share of the learning rate."""

    module: nn.Module
    share: float = 1.0


def top_loss(model: Llama, below: int) -> tuple[Callable[[Batch], Tensor], list[Learner]]:
    """The loss of the layers on top of the first so many, which are frozen, and what it trains."""
    for weight in (*model.embedding.parameters(), *model.layers[:below].parameters()):
        weight.requires_grad_(False)
    surprise = Surprise(model.size.width).to(model.rotation.device)
    generator_norm = model.norm.detach().clone()

    def loss(batch: Batch) -> Tensor:
        tokens = batch.tokens.to(model.rotation.device).long()
        states = _states(model, tokens)
        likelihood = _log_likelihood(model, states[below - 1], generator_norm, tokens)
        told = surprise.loss(states[below], likelihood, _is_solution(tokens))
        return verdict_loss(model, batch, states) + _SURPRISE * told

    rest = nn.ModuleList([*model.layers[below + 1 :], surprise, nn.ParameterList([model.norm])])
    return loss, [Learner(model.layers[below], _TAUGHT_SHARE), Learner(rest)]


class _Training:
    """Steps on labelled solutions."""

    def __init__(self, items: Sequence[Labelled], options: argparse.Namespace, log: Log) -> None:
        self.step = 0
        self._items, self._options, self._log = items, options, log
        self._rng = random.Random(options.seed)
        self.waiting = batches(items, self._rng)
        log.write(event="batched", solutions=len(items), batches=len(self.waiting))

    def run(
        self, model: Llama, loss_of: Callable[[Batch], Tensor], learners: Sequence[Learner], seconds: float
    ) -> None:
        """Descends for so long; the learning rate rises and falls once. The model is saved now and then."""
        device = self._options.device
        peak = self._options.peak * model.size.learning_rate
        optimizers = [Optimizers(learner.module, peak * learner.share, device) for learner in learners]
        started, losses = time.time(), torch.zeros((), device=device)
        model.train()
        while (progress := (time.time() - started) / max(seconds, 1e-9)) < 1:
            if not self.waiting:
                self.waiting = batches(self._items, self._rng)
            loss = loss_of(self.waiting.pop())
            loss.backward()  # type: ignore[no-untyped-call]
            for learner, optimizer in zip(learners, optimizers, strict=True):
                nn.utils.clip_grad_norm_(learner.module.parameters(), 1.0, foreach=True)
                optimizer.step(learning_rate(peak * learner.share, self.step, progress))
            self.step += 1
            losses += loss.detach()
            if self.step % 100 == 0:
                self._log.write(step=self.step, loss=round(float(losses) / 100, 4), progress=round(progress, 3))
                losses = torch.zeros((), device=device)
            if self.step % 1000 == 0:
                save(model, Path(self._options.out) / "prm.pt", {"prm_steps": self.step})


def _states(model: Llama, tokens: Tensor) -> list[Tensor]:
    length, device = tokens.shape[1], tokens.device
    later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    bias = torch.zeros(1, 1, length, length, dtype=torch.bfloat16, device=device).masked_fill_(later, float("-inf"))
    with torch.autocast(device.type, torch.bfloat16):
        return model.states(tokens, bias)


@torch.no_grad()
def _log_likelihood(model: Llama, state: Tensor, norm: Tensor, tokens: Tensor) -> Tensor:
    """Of every token but the first under the generator, at least `_LEAST_LIKELY` [rows, length]."""
    normed = functional.rms_norm(state, state.shape[-1:], norm, NORM_EPS)
    with torch.autocast(tokens.device.type, torch.bfloat16):
        logits = functional.linear(normed[:, :-1], model.embedding.weight).float()
    found = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return functional.pad(found.clamp(min=_LEAST_LIKELY), (1, 0))


@torch.no_grad()
def _read(model: Llama, batch: Batch) -> Read:
    """A batch as the generator reads it, on the CPU."""
    tokens = batch.tokens.to(model.rotation.device).long()
    state = _states(model, tokens)[-1]
    likelihood = _log_likelihood(model, state, model.norm, tokens)
    follows_equals = functional.pad(tokens[:, :-1] == EQUALS, (1, 0))
    return Read(state.cpu().to(torch.bfloat16), likelihood.cpu(), _is_solution(tokens).cpu(), follows_equals.cpu())


def _is_solution(tokens: Tensor) -> Tensor:
    return ((tokens == SEPARATOR).cumsum(1) > 0) & (tokens != SEPARATOR) & (tokens != PAD)


def _normed(read: Sequence[Read]) -> Tensor:
    """RMS-normed hidden states after the last layer, of the tokens of solutions [tokens, width]."""
    states = torch.cat([some.states[some.counts].float() for some in read])
    return functional.rms_norm(states, states.shape[-1:])


def verdict_loss(model: Llama, batch: Batch, states: Sequence[Tensor] | None = None) -> Tensor:
    """Cross entropy of "+" against "-" after each step, and of these two against all else that might be said there."""
    device = model.rotation.device
    is_bad = batch.is_bad.to(device).long()
    is_verdict = is_bad != -100
    if states is None:
        states = _states(model, batch.tokens.to(device).long())
    with torch.autocast(device.type, torch.bfloat16):
        logits = model.logits(states[-1][is_verdict]).float()
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
    parser.add_argument("--more-layers", type=int, default=3, help="put on top of the model; only they learn then")
    parser.add_argument("--compare-steps", type=int, default=4000, help="of teaching the first of them to compare")
    parser.add_argument("--compared", type=int, default=300, help="batches it is taught with")
    parser.add_argument("--peak", type=float, default=1.0, help="of the learning rate the model was trained with")
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
