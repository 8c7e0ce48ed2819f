"""Embeds texts: mean of the final hidden states, scaled to length 1, on a small context of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.errors import EngineFailed
from orchestrator.workers.llama_cpp.binding import ContextHandle, Row
from orchestrator.workers.llama_cpp.outbox import post

FloatMatrix = npt.NDArray[np.float32]

MOST_TEXTS = 64
"""Read in one batch, each as a sequence of its own."""


class _Piece(NamedTuple):
    """Tokens [start, end) of a text."""

    text: int
    start: int
    end: int


class EmbeddingChore:
    """Texts to embed, one batch of tokens at a time, so that decoding goes on in between.

    A batch holds as many whole texts as fit, or a piece of one that is longer than a batch. What it holds depends on
    these texts alone, never on what else the engine does.

    Args:
        texts: Their token ids; none may be empty or longer than the context.
        open_context: Gives the context, which has `MOST_TEXTS` sequences.
        model_name: For error messages.
        on_read: Called in the thread with the number of tokens computed, before anyone learns the result.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        *,
        open_context: Callable[[], ContextHandle],
        model_name: str,
        on_read: Callable[[int], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[FloatMatrix] = self.loop.create_future()
        self._texts = texts
        self._open_context = open_context
        self._model_name = model_name
        self._on_read = on_read
        self._sums: list[npt.NDArray[np.float64]] = []
        self._batches: Iterator[list[_Piece]] | None = None

    def advance(self) -> bool:
        """Computes one batch."""
        if self.done.cancelled():
            return True
        context = self._open_context()
        if self._batches is None:
            self._batches = self._packed(context.batch_tokens)
        batch = next(self._batches)
        if not batch[0].start:
            context.clear()
        rows = [
            Row(self._texts[piece.text][position], position, sequence, True)
            for sequence, piece in enumerate(batch)
            for position in range(piece.start, piece.end)
        ]
        if code := context.decode(rows):
            raise EngineFailed(
                f"model {self._model_name!r} could not embed (llama_decode returned {code})", model=self._model_name
            )
        first = 0
        for piece in batch:
            num_rows = piece.end - piece.start
            states = np.array([context.embedding(first + row) for row in range(num_rows)], dtype=np.float64)
            total: npt.NDArray[np.float64] = states.sum(axis=0)
            first += num_rows
            if piece.start:
                self._sums[-1] += total
            else:
                self._sums.append(total)
        self._on_read(len(rows))
        if batch[-1].text < len(self._texts) - 1 or batch[-1].end < len(self._texts[-1]):
            return False
        self._settle()
        return True

    def _packed(self, batch_tokens: int) -> Iterator[list[_Piece]]:
        batch: list[_Piece] = []
        room = batch_tokens
        for text, tokens in enumerate(self._texts):
            if batch and (len(tokens) > room or len(batch) == MOST_TEXTS):
                yield batch
                batch, room = [], batch_tokens
            start = 0
            while len(tokens) - start > batch_tokens:
                yield [_Piece(text, start, start + batch_tokens)]
                start += batch_tokens
            if start:
                yield [_Piece(text, start, len(tokens))]
            else:
                batch.append(_Piece(text, 0, len(tokens)))
                room -= len(tokens)
        if batch:
            yield batch

    def _settle(self) -> None:
        matrix = np.array(self._sums)
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        unit = matrix.astype(np.float32)
        self._post(lambda: self.done.set_result(unit))

    def fail(self, error: Exception) -> None:
        """Ends it with an error."""
        self._post(lambda: self.done.set_exception(error))

    def _post(self, act: Callable[[], None]) -> None:
        def settle() -> None:
            if not self.done.done():
                act()

        post(self.loop, settle)
