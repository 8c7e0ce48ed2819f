"""Training rows: right solutions of fresh problems, packed into rows of bytes by many processes.

A row holds whole documents (BOS problem SEPARATOR solution EOS), then padding. What a model may see and what it is
trained on is worked out from the ids alone, on the device.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.bench.lab.tokenizer import BOS, EOS, PAD, SEPARATOR, encode, prompt_ids
from orchestrator.bench.tasks import TASKS, draw

ROW_TOKENS = 128
SHARES = {"expression": 0.27, "countdown": 0.43, "sudoku6": 0.3}
"""Of documents."""
COMPLEXITIES = {
    "expression": (1, 2, 3, 4, 5, 6, 8, 10, 12),
    "countdown": (1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 5, 6),
    "sudoku6": (1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 8, 9, 10, 12, 14, 16),
}
"""What is drawn from, easier ones more often: they are where the models first get a step right."""
_OPEN_ROWS = 16
_MAX_SHARDS = 60
"""Of one writer; what has been written is used again and again after that."""


def document(rng: random.Random, shares: Mapping[str, float] = SHARES) -> bytes:
    """One encoded example of a random task, drawn by these shares, and of a random complexity."""
    name = rng.choices(tuple(shares), tuple(shares.values()))[0]
    task = TASKS[name]
    complexity = rng.choice(COMPLEXITIES[name])
    example = draw(task, rng, complexity, "train")
    return prompt_ids(example.problem) + encode(example.solution) + bytes([EOS])


def rows(documents: Callable[[], bytes], count: int) -> npt.NDArray[np.uint8]:
    """Packed rows [count, ROW_TOKENS]: each document goes where the least room is left."""
    packed = np.full((count, ROW_TOKENS), PAD, np.uint8)
    done, open_rows = 0, [bytearray() for _ in range(_OPEN_ROWS)]
    while done < count:
        text = documents()
        fitting = [row for row in open_rows if len(row) + len(text) <= ROW_TOKENS]
        if fitting:
            row = max(fitting, key=len)
        else:
            full = max(open_rows, key=len)
            packed[done, : len(full)] = np.frombuffer(full, np.uint8)
            done += 1
            row = full
            row.clear()
        row += text
    return packed


def write_shards(folder: Path, seed: int, rows_per_shard: int, shares: Mapping[str, float]) -> None:
    """Writes shards without end; a worker's whole life."""
    os.nice(5)
    rng = random.Random(seed)
    number, parent = 0, os.getppid()
    while os.getppid() == parent and number < _MAX_SHARDS:
        shard = rows(lambda: document(rng, shares), rows_per_shard if number else rows_per_shard // 4)
        partial = folder / f".{seed}-{number}.partial"
        with partial.open("wb") as file:
            np.save(file, shard)
        partial.replace(folder / f"{seed}-{number}.npy")
        number += 1


def start_writers(
    folder: Path, *, seed: int, num_workers: int, rows_per_shard: int, shares: Mapping[str, float] = SHARES
) -> list[multiprocessing.Process]:
    """Daemon processes that fill ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    TASKS["sudoku6"].example(random.Random(0), 4)  # its table of grids is made once, before the fork
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=write_shards, args=(folder, 1000 * seed + number, rows_per_shard, shares), daemon=True)
        for number in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    return workers  # type: ignore[return-value]  # ForkProcess is a Process in all but name


class Shards:
    """All shards written so far, on the device; `batches` draws from them at random."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._known: set[str] = set()
        self._tensors: list[Tensor] = []
        self.num_rows = 0

    def refresh(self) -> None:
        """Takes in what has been written since."""
        for path in sorted(self._folder.glob("*.npy")):
            if path.name not in self._known:
                self._known.add(path.name)
                self._tensors.append(torch.from_numpy(np.load(path)).to(self._device))
                self.num_rows += len(self._tensors[-1])

    def batches(self, rng: random.Random, batch_rows: int) -> Iterator[Tensor]:
        """Random blocks of rows, uint8 [batch_rows, ROW_TOKENS]."""
        while True:
            weights = [len(tensor) for tensor in self._tensors]
            for tensor in rng.choices(self._tensors, weights, k=64):
                start = rng.randrange(max(len(tensor) - batch_rows, 0) + 1)
                block = tensor[start : start + batch_rows]
                if len(block) < batch_rows:
                    block = block.repeat(-(-batch_rows // len(block)), 1)[:batch_rows]
                yield block


class Batch(NamedTuple):
    """What one step is trained on.

    Attributes:
        tokens: Ids [rows, length].
        bias: 0 where a position may look, -inf elsewhere, [rows, 1, length, length].
        targets: The next id where it is to be learnt, -100 elsewhere.
    """

    tokens: Tensor
    bias: Tensor
    targets: Tensor


def batch_of(block: Tensor, dtype: torch.dtype) -> Batch:
    """Masks and targets of a block: documents do not see each other, and only solutions are learnt."""
    tokens = block.long()
    documents = (tokens == BOS).cumsum(1)
    is_solution = (tokens == SEPARATOR).cumsum(1) == documents
    following = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=PAD)
    targets = torch.where(is_solution & (following != PAD) & (following != BOS), following, -100)
    return Batch(tokens, document_bias(documents, dtype), targets)


def document_bias(documents: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention bias of rows whose positions belong to numbered documents [rows, length]."""
    length = documents.shape[1]
    is_seen = (documents[:, :, None] == documents[:, None, :]) & torch.ones(
        length, length, dtype=torch.bool, device=documents.device
    ).tril()
    bias = torch.zeros(is_seen.shape, dtype=dtype, device=documents.device)
    return bias.masked_fill_(~is_seen, float("-inf"))[:, None]
