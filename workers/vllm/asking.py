"""What is asked of vLLM for one of our requests: sampling parameters, prompts, priorities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.engine import GenerateRequest
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import derived_seed
from orchestrator.workers.vllm.sample import Sample

if TYPE_CHECKING:
    from vllm.inputs import TokensInput
    from vllm.sampling_params import SamplingParams

_NO_DEADLINE_MS = (1 << 40) - 1
_MAX_TEMPERATURE = 2.0
"""vLLM's limit."""
_MOST_URGENT, _LEAST_URGENT = -(1 << 20), 1 << 20


def num_logprobs(request: GenerateRequest) -> int:
    """The likeliest tokens that are needed at each position, by the caller and by monitors."""
    return max([request.num_logprobs, *(monitor.num_logprobs for monitor in request.monitors)])


def sampling_params(request: GenerateRequest, sample: Sample, *, end_ids: Sequence[int]) -> SamplingParams:
    """Parameters for what is still to be sampled of a sample.

    A sample that is continued after its reader fell behind draws from a seed of its own for that place. vLLM applies
    the temperature before it truncates: a ``min_p`` of m at temperature 1 is one of m ** (1 / T) after it, exactly;
    ``top_p`` is applied to the probabilities at the temperature.

    Raises:
        InvalidRequest: A schema or grammar that vLLM does not take.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    sampling = request.sampling
    structured = None
    if request.json_schema is not None:
        structured = StructuredOutputsParams(json=dict(request.json_schema))
    elif request.grammar is not None:
        structured = StructuredOutputsParams(grammar=request.grammar)
    min_p = sampling.min_p if sampling.is_greedy else sampling.min_p ** (1 / sampling.temperature)
    top = num_logprobs(request)
    return SamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=min_p,
        seed=derived_seed(sample.seed, sample.output_tokens) if sample.output_tokens else sample.seed,
        max_tokens=sample.limit - sample.output_tokens,
        stop_token_ids=list(end_ids),
        logprobs=top or None,
        flat_logprobs=True,
        detokenize=False,
        structured_outputs=structured,
        output_kind=RequestOutputKind.DELTA,
    )


def prompt_input(ids: Sequence[int], *, cache_salt: str = "") -> TokensInput:
    """A prompt as vLLM takes it; requests with different salts never share cached blocks."""
    from vllm.inputs import tokens_input

    return tokens_input(list(ids), cache_salt=cache_salt or None)


def priority(request: GenerateRequest, *, now_s: float) -> int:
    """The priority in vLLM, smaller first: ours, and within it the earlier deadline.

    Args:
        request: Whose.
        now_s: Seconds on a clock that does not go back; deadlines up to about 34 years on it are told apart.
    """
    ours = min(max(request.priority, _MOST_URGENT), _LEAST_URGENT)
    due_ms = _NO_DEADLINE_MS
    if request.deadline_s is not None and math.isfinite(request.deadline_s):
        due_ms = min(max(0, int((now_s + request.deadline_s) * 1000)), _NO_DEADLINE_MS)
    return ours * (_NO_DEADLINE_MS + 1) + due_ms


def check(request: GenerateRequest, *, most_logprobs: int) -> None:
    """Refuses what cannot be asked for.

    Raises:
        InvalidRequest: Naming field, value and the way out.
    """
    if not request.samples:
        raise InvalidRequest("samples must name at least one sample", field="samples", value=())
    for spec in request.samples:
        if spec.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", field="max_tokens", value=spec.max_tokens)
    if request.json_schema is not None and request.grammar is not None:
        raise InvalidRequest("give either json_schema or grammar, not both", field="grammar", value=request.grammar)
    if not 0 <= request.num_logprobs <= most_logprobs:
        raise InvalidRequest(
            f"num_logprobs must be from 0 to {most_logprobs}, not {request.num_logprobs}",
            field="num_logprobs",
            value=request.num_logprobs,
        )
    if request.sampling.temperature > _MAX_TEMPERATURE:
        raise InvalidRequest(
            f"vLLM takes temperatures from 0 to {_MAX_TEMPERATURE:g}, not {request.sampling.temperature:g}",
            field="temperature",
            value=request.sampling.temperature,
        )
    if request.max_unread_tokens < 1:
        raise InvalidRequest("max_unread_tokens must be at least 1", field="max_unread_tokens")
