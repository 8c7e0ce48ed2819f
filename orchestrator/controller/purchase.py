"""What work costs: the amount to reserve before it is dispatched, and the usage it is settled to after."""

from __future__ import annotations

import json
from typing import TypeGuard
from weakref import WeakKeyDictionary

from orchestrator.budget import Amount
from orchestrator.cost import KINETICS_INTENSITY, ModelCost
from orchestrator.engine import Engine, ModelDescription, Prompt, Tokenizes
from orchestrator.reply_form import ToolOffer
from orchestrator.usage import Usage

_TEMPLATE_TOKENS_PER_MESSAGE = 16
"""Generous bound on what a chat template adds to a message, for servers whose tokenizer is not at hand."""


def tokenizes(engine: Engine) -> TypeGuard[Tokenizes]:
    """Whether it knows its vocabulary; asked often, and looked up once for each class."""
    kind = type(engine)
    if kind not in _TOKENIZES:
        _TOKENIZES[kind] = isinstance(engine, Tokenizes)
    return _TOKENIZES[kind]


_TOKENIZES: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def prompt_bound(engine: Engine, prompt: Prompt, *, tools: ToolOffer | None = None) -> int:
    """Tokens of ``prompt``: exact where the engine tokenizes, else an upper bound (a token is at least one byte)."""
    if tokenizes(engine):
        return engine.count_prompt_tokens(prompt)
    texts = [message.content for message in prompt.messages]
    texts += [span.text for span in prompt.continuation]
    of_tools = [call.name + call.arguments for message in prompt.messages for call in message.tool_calls]
    if tools is not None:
        of_tools += [json.dumps(function, ensure_ascii=False) for function in tools.functions]
    num_parts = len(prompt.messages) + len(of_tools) + 1
    return sum(len(text.encode()) for text in (*texts, *of_tools)) + _TEMPLATE_TOKENS_PER_MESSAGE * num_parts


def sample_amount(model: ModelCost, *, context_tokens: int, prompt_tokens: int, output_tokens: int) -> Amount:
    """The most that one sample can cost.

    Args:
        model: Prices and shape.
        context_tokens: Tokens before the sample's first one.
        prompt_tokens: The part of them this sample pays for: all of them, or none where another sample of the same
            request does.
        output_tokens: Most tokens it may sample.
    """
    return Amount(
        output_tokens=output_tokens,
        total_tokens=prompt_tokens + output_tokens,
        model_calls=1,
        picodollars=model.prices.picodollars(prompt_tokens=prompt_tokens, output_tokens=output_tokens),
        flops=model.flops(start=0, num_tokens=prompt_tokens)
        + model.flops(start=context_tokens, num_tokens=output_tokens),
    )


def sample_usage(
    model: ModelCost,
    *,
    context_tokens: int,
    prompt_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    longest_sibling: int = 0,
    recomputed_tokens: int = 0,
    peak_kv_cells: int = 0,
    is_estimated: bool = False,
) -> Usage:
    """What one sample did cost; arguments as in `sample_amount`.

    ``longest_sibling`` is the length of the longest earlier sample of the request: reads of the prompt's KV are
    shared by samples that are decoded together, so only steps beyond it add to them.
    """
    fresh = prompt_tokens - cached_tokens
    flops = model.flops(start=cached_tokens, num_tokens=fresh) + model.flops(
        start=context_tokens, num_tokens=output_tokens
    )
    own_reads = model.kv_read_bytes(prompt_tokens=0, output_lengths=[output_tokens])
    shared_reads = model.kv_bytes_per_token * context_tokens * max(0, output_tokens - longest_sibling)
    return Usage(
        prompt_tokens=prompt_tokens,
        cached_prompt_tokens=cached_tokens,
        output_tokens=output_tokens,
        model_calls=1,
        recomputed_tokens=recomputed_tokens,
        peak_kv_cells=peak_kv_cells,
        flops=flops,
        effective_flops=round(flops + KINETICS_INTENSITY * (own_reads + shared_reads)),
        picodollars=model.prices.picodollars(
            prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens
        ),
        is_estimated=is_estimated,
    )


def amount_of(usage: Usage) -> Amount:
    """The part of a usage that caps count."""
    return usage.amount


def longest_grant(description: ModelDescription, *, context_tokens: int, wanted: int) -> int:
    """``wanted`` tokens, or as many as the model's context leaves room for (may be 0 or less)."""
    return min(wanted, description.context_length - context_tokens)
