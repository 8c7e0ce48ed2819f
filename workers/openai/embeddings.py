"""`OpenAIEmbeddingEngine`: an engine whose server turns texts into vectors as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.engine import Embeddings
from orchestrator.errors import EngineFailed
from orchestrator.workers.openai.engine import OpenAIEngine

_MAX_TEXTS = 256  # in one request; OpenAI allows 2048


class OpenAIEmbeddingEngine(OpenAIEngine):
    """Implements `Embeds` through ``/embeddings``; made by `open_engine` with ``embeddings=True``."""

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """One L2-normalised vector per text.

        Raises:
            EngineFailed: The server could not be reached, refused, or sent something else.
        """
        rows: list[list[float]] = []
        prompt_tokens = 0
        for start in range(0, len(texts), _MAX_TEXTS):
            batch = list(texts[start : start + _MAX_TEXTS])
            reply = await self._transport.post_json("embeddings", {"model": self._model, "input": batch})
            try:
                rows += _rows(reply, len(batch))
                prompt_tokens += int((reply.get("usage") or {}).get("prompt_tokens") or 0)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise EngineFailed(
                    f"model {self._description.name!r} at {self._transport.host} sends no embeddings",
                    model=self._description.name,
                    is_retryable=False,
                ) from error
        self._counters.prompt_tokens += prompt_tokens
        vectors = np.asarray(rows, dtype=np.float32).reshape(len(texts), -1)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings((vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32), prompt_tokens)


def _rows(reply: Any, count: int) -> list[list[float]]:  # Any: JSON value
    entries = sorted(reply["data"], key=lambda entry: int(entry["index"]))
    rows = [[float(value) for value in entry["embedding"]] for entry in entries]
    if len(rows) != count or len({len(row) for row in rows}) != 1:
        raise ValueError("one vector of one length for each text")
    return rows
