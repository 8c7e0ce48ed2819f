"""Reading without writing: log probabilities of given tokens, and whole rows of the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.engine import LogitRow, TokenScores
from orchestrator.workers.vllm.core import Core

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams


async def score(core: Core, prompt: Sequence[int], given: Sequence[int], request_id: str) -> TokenScores:
    """Log probability of each of ``given`` after ``prompt``, at least one token long.

    vLLM tells log probabilities of a prompt's tokens; for those that it takes from its prefix cache it has none. So the
    cache is used as long as it holds no more than the prompt; else all is read once more, without it.
    """
    first = len(prompt)
    if len(given) == 1:
        row, cached = await of_tokens(core, prompt, given, request_id)
        return TokenScores(row, first, cached)
    ids = [*prompt, *given[:-1]]
    wanted = given[-1]
    output = await _only(core, ids, _scoring(wanted, reads_cache=True), request_id)
    cached = output.num_cached_tokens or 0
    read = len(ids)
    if cached >= first:
        output = await _only(core, ids, _scoring(wanted, reads_cache=False), f"{request_id}-again")
        read *= 2
    inside = [_in_row(output.prompt_logprobs, place, token) for place, token in enumerate(given[:-1], start=first)]
    return TokenScores((*inside, _chosen(output, wanted)), read, min(cached, read))


async def next_token(core: Core, prompt: Sequence[int], request_id: str) -> LogitRow:
    """Log probabilities of all tokens after ``prompt``."""
    from vllm.sampling_params import SamplingParams

    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=-1, flat_logprobs=True, detokenize=False)
    output = await _only(core, prompt, params, request_id)
    row = output.outputs[0].logprobs
    ids = np.asarray(row.token_ids, np.int64)
    logits = np.full(int(ids.max()) + 1, -math.inf, np.float32)
    logits[ids] = np.asarray(row.logprobs, np.float32)
    return LogitRow(logits, len(prompt), output.num_cached_tokens or 0)


async def of_tokens(
    core: Core, prompt: Sequence[int], tokens: Sequence[int], request_id: str
) -> tuple[tuple[float, ...], int]:
    """Log probabilities of certain tokens after ``prompt``, and how many of its tokens were cached."""
    output = await _only(core, prompt, _next(tokens), request_id)
    return tuple(_chosen(output, token) for token in tokens), output.num_cached_tokens or 0


def _next(tokens: Sequence[int]) -> SamplingParams:
    from vllm.sampling_params import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=list(dict.fromkeys(tokens)),
        flat_logprobs=True,
        detokenize=False,
    )


def _scoring(wanted: int, *, reads_cache: bool) -> SamplingParams:
    params = _next([wanted])
    params.prompt_logprobs = 0
    params.skip_reading_prefix_cache = not reads_cache
    return params


async def _only(core: Core, ids: Sequence[int], params: SamplingParams, request_id: str) -> RequestOutput:
    core.require_room(1)
    last = None
    async with aclosing(core.generate(ids, params, request_id)) as outputs:
        async for output in outputs:
            last = output
    assert last is not None, "vLLM ends a request with an output"
    return last


def _chosen(output: RequestOutput, token: int) -> float:
    return _in_row(output.outputs[0].logprobs, 0, token)


def _in_row(rows: Any, place: int, token: int) -> float:  # Any: vLLM's FlatLogprobs
    start, end = rows.start_indices[place], rows.end_indices[place]
    return min(0.0, float(rows.logprobs[rows.token_ids.index(token, start, end)]))
