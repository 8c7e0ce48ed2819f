"""Embedding on a pretended context: how texts are packed into batches, and what becomes of their states."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.errors import EngineFailed
from orchestrator.workers.llama_cpp.binding import Row
from orchestrator.workers.llama_cpp.embedding import MOST_TEXTS, EmbeddingChore


class PretendedContext:
    """The state of a token is one-hot: its mean over a text says how often each token was read."""

    def __init__(self, batch_tokens: int = 8, code: int = 0) -> None:
        self.batch_tokens = batch_tokens
        self.batches: list[list[Row]] = []
        self.num_clears = 0
        self._code = code
        self._held: dict[int, int] = {}

    def clear(self) -> None:
        self.num_clears += 1
        self._held.clear()

    def decode(self, rows: Sequence[Row]) -> int:
        assert 0 < len(rows) <= self.batch_tokens
        for row in rows:
            assert row.position == self._held.get(row.sequence, 0), "a sequence has no gaps and nothing twice"
            assert row.sequence < MOST_TEXTS
            self._held[row.sequence] = row.position + 1
        self.batches.append(list(rows))
        return self._code

    def embedding(self, index: int) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[self.batches[-1][index].token]


async def embedded(texts: list[list[int]], context: PretendedContext) -> np.ndarray:
    read: list[int] = []
    chore = EmbeddingChore(texts, open_context=lambda: context, model_name="m", on_read=read.append)
    while not chore.advance():
        pass
    vectors = await asyncio.wait_for(chore.done, 5)
    assert sum(read) == sum(map(len, texts))
    return vectors


def counted(texts: list[list[int]]) -> np.ndarray:
    counts = np.array([np.bincount(text, minlength=10) for text in texts], dtype=np.float64)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "lengths", [[3], [3, 5, 4, 4, 1], [20], [1, 20, 2], [8, 8], [16, 3], [9, 9], [1] * 200], ids=str
)
async def test_each_text_is_read_once_whatever_shares_its_batch(lengths: list[int]):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 10, length).tolist() for length in lengths]
    vectors = await embedded(texts, PretendedContext())
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(counted(texts), abs=1e-6)


async def test_short_texts_share_a_batch():
    context = PretendedContext()
    await embedded([[1, 2, 3], [4, 5, 6, 7, 8], [9]], context)
    assert [len(batch) for batch in context.batches] == [8, 1]
    assert {row.sequence for row in context.batches[0]} == {0, 1}


async def test_a_batch_holds_no_more_texts_than_there_are_sequences():
    context = PretendedContext(batch_tokens=1000)
    await embedded([[1]] * (MOST_TEXTS + 1), context)
    assert [len(batch) for batch in context.batches] == [MOST_TEXTS, 1]


async def test_the_pieces_of_a_long_text_stay_together():
    context = PretendedContext()
    await embedded([[1] * 20, [2]], context)
    assert [len(batch) for batch in context.batches] == [8, 8, 4, 1]
    assert context.num_clears == 2


async def test_a_batch_that_fails_is_an_error_that_names_the_model():
    with pytest.raises(EngineFailed, match="'m' could not embed"):
        await embedded([[1]], PretendedContext(code=1))
