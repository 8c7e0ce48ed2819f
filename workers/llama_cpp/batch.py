"""What a batch is made of, and what computes it: rows for the slices of tasks, and whose logits come back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from orchestrator.workers.llama_cpp.admission import Slice
from orchestrator.workers.llama_cpp.binding import FloatMatrix, Row
from orchestrator.workers.llama_cpp.cells import Memory
from orchestrator.workers.llama_cpp.work import Task


class Runner(Memory, Protocol):
    """A context, as the loop needs it."""

    batch_tokens: int
    max_outputs: int
    num_cells: int

    def decode(self, rows: Sequence[Row]) -> int:
        """Computes a batch; 0 on success."""
        ...

    def logits(self, num_outputs: int) -> FloatMatrix:
        """Logits [outputs, vocabulary] of its rows that wanted them."""
        ...


class Output(NamedTuple):
    """Whose logits a row gives, and after which of the task's tokens."""

    task: Task
    position: int


class Batch(NamedTuple):
    """Rows to compute, and an output for each of them that wants its logits, in the same order."""

    rows: list[Row]
    outputs: list[Output]


def batch_of(slices: Iterable[Slice]) -> Batch:
    """Lays out the tokens of live tasks."""
    batch = Batch([], [])
    for task, start, num_tokens in slices:
        assert task.lease is not None
        sequence = task.lease.sequence
        for position in range(start, start + num_tokens):
            is_wanted = task.wants(position)
            batch.rows.append(Row(task.tokens[position], position, sequence, is_wanted))
            if is_wanted:
                batch.outputs.append(Output(task, position))
    return batch
