"""Teaches a generator the slips of an earlier one in a single task, and keeps up its other skills.

``python3 bench/lab/bare.py slips NOW EARLIER OUT --task expression``, three files of weights. Tasks are not learnt
evenly: when `large` is as good at two of them as is wanted, it hardly errs in the third any more, and there is nothing
left to allocate compute for. So it goes on from there with solutions of that task that an earlier state of it wrote,
slips and all, among right solutions of the others. A temperature above 1 makes it slip more.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from orchestrator.bench.lab.checkpoint import load_file, save
from orchestrator.bench.lab.data import COMPLEXITIES, ROW_TOKENS, SHARES, batch_of, document, rows
from orchestrator.bench.lab.generation import sample
from orchestrator.bench.lab.model import Llama
from orchestrator.bench.lab.tokenizer import EOS, prompt_ids
from orchestrator.bench.lab.train import Optimizers, learning_rate, loss_of
from orchestrator.bench.tasks import TASKS, draw

_BATCH_ROWS = 24
_CHUNK = 512


def written(model: Llama, task: str, *, count: int, temperature: float, seed: int) -> list[bytes]:
    """Documents of train problems of a task with solutions by the model, right or wrong; those that fit into a row."""
    rng = random.Random(f"slips/{seed}")
    documents: list[bytes] = []
    while len(documents) < count:
        problems = [
            draw(TASKS[task], rng, rng.choice(COMPLEXITIES[task]), "train").problem for _ in range(min(_CHUNK, count))
        ]
        prompts = [prompt_ids(problem) for problem in problems]
        texts = sample(model, prompts, temperature=temperature, seed=seed + len(documents))
        made = (prompt + text + bytes([EOS]) for prompt, text in zip(prompts, texts, strict=True))
        documents += [one for one in made if len(one) <= ROW_TOKENS]
    return documents[:count]


def taught(model: Llama, slips: Sequence[bytes], task: str, options: argparse.Namespace) -> int:
    """Trains in place for so many minutes, with ``slips`` for documents of ``task``; says for how many steps."""
    rng = random.Random(options.seed)
    others = {name: share for name, share in SHARES.items() if name != task}

    def mixed() -> bytes:
        return rng.choice(slips) if rng.random() < options.share else document(rng, others)

    packed = torch.from_numpy(rows(mixed, _BATCH_ROWS * options.batches))
    peak = options.peak * model.size.learning_rate
    optimizers = Optimizers(model, peak, "cpu")
    started, step = time.time(), 0
    model.train()
    while (progress := (time.time() - started) / (60 * options.minutes)) < 1:
        batch = batch_of(packed[torch.randint(0, len(packed), (_BATCH_ROWS,))], torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(batch.tokens, batch.bias), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizers.step(learning_rate(peak, step, progress))
        step += 1
        if step % 100 == 0:
            print(step, round(float(loss.detach()), 4), flush=True)
    return step


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="the .pt file that goes on")
    parser.add_argument("earlier", type=Path, help="the .pt file whose slips it is taught")
    parser.add_argument("result", type=Path)
    parser.add_argument("--task", default="expression", choices=list(TASKS))
    parser.add_argument("--temperature", type=float, default=1.0, help="the earlier one's")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training")
    parser.add_argument("--count", type=int, default=5120, help="solutions of the earlier one")
    parser.add_argument("--share", type=float, default=0.4, help="of these among the documents")
    parser.add_argument("--batches", type=int, default=400, help="different ones")
    parser.add_argument("--peak", type=float, default=0.1, help="times the learning rate of the size")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    earlier = load_file(options.earlier)[0].eval()
    slips = written(earlier, options.task, count=options.count, temperature=options.temperature, seed=options.seed)
    model, facts = load_file(options.model)
    steps = taught(model, slips, options.task, options)
    tokens = steps * _BATCH_ROWS * ROW_TOKENS
    save(model, options.result, {**facts, "steps": facts["steps"] + steps, "tokens": facts["tokens"] + tokens})


if __name__ == "__main__":
    main()
