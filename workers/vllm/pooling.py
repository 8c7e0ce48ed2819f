"""Models in vLLM that make vectors of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from orchestrator.engine import Embeddings
from orchestrator.workers.vllm.engine import VllmEngine

_AT_ONCE = 256
"""Texts that are with vLLM at a time; its batches are smaller."""


class VllmEmbedder(VllmEngine):
    """An embedding model in vLLM."""

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """One L2-normalised vector per text, pooled as the model wants it.

        Raises:
            ContextOverflow: A text is too long.
            EngineFailed: vLLM has died, or has no room for more.
        """
        await self._core.ready()
        encoded = await asyncio.to_thread(lambda: [self._text_ids(text) for text in texts])
        for ids in encoded:
            self._require_room(len(ids), replies=0)
        gate = asyncio.Semaphore(_AT_ONCE)
        with self._reading():
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._embed(ids, gate)) for ids in encoded]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        num_tokens = sum(map(len, encoded))
        self._count_read(num_tokens, 0)
        if not tasks:
            return Embeddings(np.zeros((0, self._width()), np.float32), 0)
        vectors = np.stack([task.result() for task in tasks])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings((vectors / np.maximum(norms, 1e-12)).astype(np.float32), num_tokens)

    async def _embed(self, ids: Sequence[int], gate: asyncio.Semaphore) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        from vllm.pooling_params import PoolingParams

        async with gate:
            output = await self._core.pool(ids, PoolingParams(task="embed"), self._next_id("embed"))
        row: np.ndarray[tuple[int], np.dtype[np.float32]] = output.outputs.data.float().numpy().reshape(-1)
        return row

    def _text_ids(self, text: str) -> list[int]:
        return self._prompts.document_ids(text)

    def _width(self) -> int:
        return int(self._core.llm.model_config.get_hidden_size())
