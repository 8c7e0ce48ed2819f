"""Sampling many continuations at once in PyTorch: for Monte-Carlo labels and for accuracy during training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from orchestrator.bench.lab.model import HEAD_WIDTH, MAX_TOKENS, Cache, Llama
from orchestrator.bench.lab.tokenizer import EOS, PAD

_COMPACT_EVERY = 16


@torch.no_grad()
def sample(
    model: Llama,
    prompts: Sequence[bytes],
    *,
    temperature: float = 1.0,
    max_tokens: int = 128,
    max_length: int = MAX_TOKENS,
    batch_rows: int | None = None,
    seed: int = 0,
) -> list[bytes]:
    """One continuation of each prompt, without EOS; it breaks off at a limit, and is empty after too long a prompt.

    Args:
        model: On any device; bfloat16 is used on GPUs.
        prompts: Ids of BOS, problem and what is already written.
        temperature: 0 is greedy.
        max_tokens: Most new tokens.
        max_length: Most tokens of prompt and continuation together.
        batch_rows: Prompts run at once, longest first; by default as many as suit the device.
        seed: Of the sampling.
    """
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) < max_length]
    order = sorted(fitting, key=lambda index: -len(prompts[index]))
    batch_rows = batch_rows or (4096 if model.rotation.device.type == "cuda" else 512)
    generator = torch.Generator(model.rotation.device).manual_seed(seed)
    results: list[bytes] = [b""] * len(prompts)
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        limit = min(max_tokens, max_length - len(prompts[chosen[0]]))
        texts = _sample_batch(model, [prompts[index] for index in chosen], temperature, limit, generator)
        for index, text in zip(chosen, texts, strict=True):
            results[index] = text
    return results


def _sample_batch(
    model: Llama, prompts: Sequence[bytes], temperature: float, max_tokens: int, generator: torch.Generator
) -> list[bytes]:
    device = model.rotation.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    count, width = len(prompts), max(map(len, prompts))
    # Left-padded, so that all rows write at the same position; rotary positions are relative.
    tokens = torch.tensor([list(bytes([PAD]) * (width - len(prompt)) + prompt) for prompt in prompts], device=device)
    is_key = torch.zeros(count, width + max_tokens, dtype=torch.bool, device=device)
    is_key[:, :width] = tokens != PAD
    is_key[:, width:] = True
    size = model.size
    state = torch.zeros(size.layers, 2, count, size.heads, width + max_tokens, HEAD_WIDTH, dtype=dtype, device=device)
    cache = Cache(state)
    rows = torch.arange(count, device=device)
    written = torch.full((count, max_tokens), PAD, dtype=torch.uint8, device=device)
    bias = _prompt_bias(tokens != PAD, dtype)
    for position in range(max_tokens):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(tokens, bias, cache)[:, -1].float()
        chosen = _choose(logits[:, :256], temperature, generator)
        written[rows, position] = chosen.to(torch.uint8)
        if position % _COMPACT_EVERY == _COMPACT_EVERY - 1:
            is_alive = ~(written[rows] == EOS).any(1)
            alive = int(is_alive.sum())
            if not alive:
                break
            if alive < 0.7 * len(rows):
                rows, chosen, is_key = rows[is_alive], chosen[is_alive], is_key[is_alive]
                cache.state = cache.state[:, :, is_alive]
        tokens = chosen[:, None]
        bias = torch.zeros(len(rows), 1, 1, cache.filled + 1, dtype=dtype, device=device)
        bias.masked_fill_(~is_key[:, None, None, : cache.filled + 1], float("-inf"))
    texts = written.cpu().numpy()
    return [bytes(text).partition(bytes([EOS]))[0].rstrip(bytes([PAD])) for text in texts]


def _prompt_bias(is_token: Tensor, dtype: torch.dtype) -> Tensor:
    """Causal attention among the tokens; padding looks at itself, so that nothing becomes NaN."""
    length = is_token.shape[1]
    is_seen = is_token[:, None, :] & torch.ones(length, length, dtype=torch.bool, device=is_token.device).tril()
    is_seen |= torch.eye(length, dtype=torch.bool, device=is_token.device)
    bias = torch.zeros(is_seen.shape, dtype=dtype, device=is_token.device)
    return bias.masked_fill_(~is_seen, float("-inf"))[:, None]


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    logits[:, PAD] = float("-inf")
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / temperature, -1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
