"""Opens a GGUF file as an engine: defaults, ranges, and what is given back when it fails half way."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from orchestrator.cost import TokenPrices
from orchestrator.workers.llama_cpp.binding import MAX_SEQUENCES, ContextHandle
from orchestrator.workers.llama_cpp.engine import LlamaCppEngine, require_range
from orchestrator.workers.llama_cpp.model import Model

DEFAULT_CELLS = 8192
"""KV cells when the caller names no number: 100 to 200 MB for models of up to 0.5 billion parameters."""

_PARAMETERS_PER_IDLE_CELL = 16384
"""At least so many parameters for each idle cell: reading its token again costs in proportion to them, while stepping
over it costs about the same in every model."""
_BATCH_TOKENS = 512
_BRANCHES_PER_SEQUENCE = 4
_SCORED_ROWS = 32
"""Rows of logits kept free for scoring, beside one for each sequence."""


async def open_engine(
    model_path: Path | str,
    *,
    name: str,
    prices: TokenPrices | None = None,
    num_threads: int | None = None,
    context_cells: int | None = None,
    max_sequences: int = 64,
    max_branches: int | None = None,
    idle_cells: int | None = None,
    num_gpu_layers: int = 0,
    is_deterministic: bool = False,
    share_prefixes: bool = True,
) -> LlamaCppEngine:
    """Loads a GGUF model and starts its decode thread.

    Args:
        model_path: The file.
        name: What the fleet calls the model.
        prices: What its tokens cost; nothing by default.
        num_threads: Threads of one decode step; all cores but one by default.
        context_cells: Size of the KV cache in tokens, shared by all sequences; also the longest context.
        max_sequences: Sequences computed at once, at most 256. Wider requests run in waves.
        max_branches: Prefixes that are computed or kept in the cache at once, those that others continue not counted;
            from `max_sequences` to 256, by default four times `max_sequences`. A search keeps the KV of no more
            trajectories than this. llama.cpp sets aside a row of logits for each.
        idle_cells: Most cells that may stay cached for no live request or tree; by default a quarter of them all, and
            fewer for a model so small that reading a prompt again costs less. Every thousand of them slow a step by
            about 0.6 ms on a small model, though they are masked.
        num_gpu_layers: Layers to keep on the GPU; -1 for all.
        is_deterministic: Same request, same bytes, whatever else was asked before: one sequence at a time, chunks of
            fixed size, nothing cached between requests. Costs the whole gain of batching and of the prefix cache.
        share_prefixes: Requests start from what others have left in the cache. Without it each request reads its whole
            prompt (once for all its samples) and leaves nothing behind: for measuring what sharing saves.

    Raises:
        ModelUnavailable: The file is missing, no GGUF, or damaged.
        MissingDependency: llama-cpp-python is not installed.
        InvalidRequest: A number is out of range.
        EngineFailed: There is no memory for the KV cache.
    """
    require_range("max_sequences", max_sequences, 1, MAX_SEQUENCES)
    branches = min(_BRANCHES_PER_SEQUENCE * max_sequences, MAX_SEQUENCES) if max_branches is None else max_branches
    require_range("max_branches", branches, max_sequences, MAX_SEQUENCES)
    cells = DEFAULT_CELLS if context_cells is None else context_cells
    require_range("context_cells", cells, 16, 2**24)
    if idle_cells is not None:
        require_range("idle_cells", idle_cells, 0, cells)
    threads = max((os.cpu_count() or 1) - 1, 1) if num_threads is None else num_threads
    require_range("num_threads", threads, 1, 1024)

    def load() -> LlamaCppEngine:
        model = Model(Path(model_path), num_gpu_layers=num_gpu_layers)
        idle = min(cells // 4, model.num_parameters // _PARAMETERS_PER_IDLE_CELL) if idle_cells is None else idle_cells
        if not share_prefixes:
            idle = 0
        try:
            context = ContextHandle(
                model.handle,
                name=name,
                num_cells=cells,
                num_sequences=branches,
                num_threads=threads,
                batch_tokens=_BATCH_TOKENS,
                max_outputs=max(max_sequences + _SCORED_ROWS, branches),
            )
        except BaseException:
            model.free()
            raise
        return LlamaCppEngine(
            model,
            context,
            name=name,
            prices=prices or TokenPrices(),
            num_cells=min(cells, context.num_cells),
            num_threads=threads,
            max_sequences=max_sequences,
            max_branches=branches,
            idle_cells=idle,
            is_deterministic=is_deterministic,
            shares_prefixes=share_prefixes,
        )

    return await asyncio.to_thread(load)
