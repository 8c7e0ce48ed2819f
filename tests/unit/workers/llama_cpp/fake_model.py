"""A model without weights for the embedded engine: what it says next depends on the cells that a sequence holds.

Each cell keeps a number that stands for the token in it and all tokens before it, as they were when it was computed.
So texts are the same whatever is cached, evicted, shared or batched, and different as soon as a cell is where it should
not be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import Prompt
from orchestrator.workers.llama_cpp.binding import FloatMatrix, Row
from orchestrator.workers.llama_cpp.cells import Extent
from orchestrator.workers.llama_cpp.engine import LlamaCppEngine
from orchestrator.workers.llama_cpp.model import Model, StepTag
from orchestrator.workers.vocabulary import BaseVocabulary

END, STEP = 0, 1
LETTERS = "abcdefghijklmn"


class FakeVocabulary(BaseVocabulary):
    """Token 0 ends a turn, token 1 a step; the others are letters."""

    size = 2 + len(LETTERS)
    end_ids = frozenset({END})
    special_ids = frozenset({END})
    special_texts = ("<end>",)
    fingerprint = "fake"
    bos = END
    adds_bos = False
    bos_text = eos_text = "<end>"

    def piece(self, token: int) -> bytes:
        return b"" if token == END else b"\n\n" if token == STEP else LETTERS[token - 2].encode()

    def encode(self, text: str, *, parses_special: bool = False) -> list[int]:
        return [STEP if part == "\n\n" else 2 + ord(part) % len(LETTERS) for part in re.findall(r"\n\n|.", text)]


class FakeModel(Model):
    """Reads conversations as plain text; is a process reward model as well."""

    def __init__(self, trained_context: int, tag: tuple[int, ...]) -> None:
        self.tag = tag
        self.vocabulary = FakeVocabulary()  # type: ignore[assignment]
        self.trained_context = trained_context
        self.num_parameters = 1

    def cost(self, prices: TokenPrices) -> ModelCost:
        return ModelCost(parameters=1, attention_width=1, kv_width=1, prices=prices)

    def step_tag(self) -> StepTag | None:
        return StepTag(self.tag, 2, 3)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        ids = [token for message in prompt.messages for token in self.vocabulary.encode(message.content)]
        for span in prompt.continuation:
            ids += self.vocabulary.encode(span.text) if span.token_ids is None else span.token_ids
        return ids

    def free(self) -> None:
        pass


@dataclass(eq=False, slots=True)
class Cell:
    """A token in the cache, and the number that stands for it and what came before."""

    key: int
    owners: set[int] = field(default_factory=set)


class FakeContext:
    """Cells as llama.cpp keeps them; refuses what llama.cpp could not compute.

    Attributes:
        num_computed: Tokens computed so far.
    """

    def __init__(self, num_cells: int, *, batch_tokens: int = 48, max_outputs: int = 300) -> None:
        self.num_cells = num_cells
        self.batch_tokens = batch_tokens
        self.max_outputs = max_outputs
        self.num_computed = 0
        self._sequences: dict[int, dict[int, Cell]] = {}
        self._used = 0
        self._logits: list[Any] = []  # Any: rows of float32

    def decode(self, rows: Sequence[Row]) -> int:
        assert 0 < len(rows) <= self.batch_tokens
        self._logits = []
        for row in rows:
            held = self._sequences.setdefault(row.sequence, {})
            assert sorted(held) == list(range(row.position)), f"a hole before position {row.position}, or a cell after"
            before = held[row.position - 1].key if row.position else 0
            held[row.position] = Cell(hash((before, row.token)), {row.sequence})
            self._used += 1
            if row.wants_output:
                self._logits.append(_logits_after(held[row.position].key))
        assert self._used <= self.num_cells, "more cells than there are"
        assert len(self._logits) <= self.max_outputs
        self.num_computed += len(rows)
        return 0

    def logits(self, num_outputs: int) -> FloatMatrix:
        assert num_outputs == len(self._logits)
        return np.stack(self._logits)

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        held = self._sequences.setdefault(target, {})
        for position, cell in self._sequences.get(source, {}).items():
            if start <= position < end:
                assert position not in held, "two cells at one position"
                held[position] = cell
                cell.owners.add(target)

    def remove(self, sequence: int, start: int) -> None:
        self.remove_range(sequence, start, 1 << 30)

    def remove_range(self, sequence: int, start: int, end: int) -> None:
        held = self._sequences.get(sequence, {})
        for position in [position for position in held if start <= position < end]:
            cell = held.pop(position)
            cell.owners.discard(sequence)
            self._used -= not cell.owners

    def extent(self, sequence: int) -> Extent:
        held = self._sequences.get(sequence)
        return Extent(min(held), max(held)) if held else Extent(-1, -1)

    def free(self) -> None:
        pass


def _logits_after(key: int) -> FloatMatrix:
    logits = np.random.default_rng(key % 2**63).normal(size=FakeVocabulary.size).astype(np.float32)
    logits[END] -= 1.5
    return logits


def open_fake(
    *,
    num_cells: int,
    max_sequences: int = 8,
    max_branches: int | None = None,
    trained_context: int = 1 << 20,
    idle_cells: int = 16,
    shares_prefixes: bool = True,
    is_deterministic: bool = False,
    tag: tuple[int, ...] = (STEP,),
) -> tuple[LlamaCppEngine, FakeContext]:
    """The embedded engine on a fake model, and its context."""
    context = FakeContext(num_cells)
    engine = LlamaCppEngine(
        FakeModel(trained_context, tag),
        context,  # type: ignore[arg-type]
        name="fake",
        prices=TokenPrices(),
        num_cells=num_cells,
        num_threads=1,
        max_sequences=max_sequences,
        max_branches=max_branches or max_sequences,
        idle_cells=idle_cells if shares_prefixes else 0,
        is_deterministic=is_deterministic,
        shares_prefixes=shares_prefixes,
    )
    return engine, context
