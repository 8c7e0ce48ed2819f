"""Embeds texts: mean of the final hidden states, scaled to length 1, on a small context of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.errors import EngineFailed
from orchestrator.workers.llama_cpp.binding import ContextHandle, Row
from orchestrator.workers.llama_cpp.outbox import post

FloatMatrix = npt.NDArray[np.float32]


class EmbeddingChore:
    """Texts to embed, one chunk of tokens at a time, so that decoding goes on in between.

    Args:
        texts: Their token ids; none may be empty or longer than the context.
        open_context: Gives the context, empty.
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
        self._vectors: list[npt.NDArray[np.float64]] = []
        self._position = 0
        self._sum: npt.NDArray[np.float64] | None = None

    def advance(self) -> bool:
        """Computes one chunk of one text."""
        if self.done.cancelled():
            return True
        context = self._open_context()
        tokens = self._texts[len(self._vectors)]
        if not self._position:
            context.clear()
        chunk = tokens[self._position : self._position + context.batch_tokens]
        rows = [Row(token, self._position + offset, 0, True) for offset, token in enumerate(chunk)]
        if code := context.decode(rows):
            raise EngineFailed(
                f"model {self._model_name!r} could not embed (llama_decode returned {code})", model=self._model_name
            )
        states = np.array([context.embedding(index) for index in range(len(rows))], dtype=np.float64)
        partial = states.sum(axis=0)
        self._sum = partial if self._sum is None else self._sum + partial
        self._position += len(chunk)
        self._on_read(len(chunk))
        if self._position == len(tokens):
            self._vectors.append(self._sum)
            self._position, self._sum = 0, None
        if len(self._vectors) < len(self._texts):
            return False
        self._settle()
        return True

    def _settle(self) -> None:
        matrix = np.array(self._vectors)
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
