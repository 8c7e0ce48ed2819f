"""The Llama architecture in plain PyTorch, small: RMSNorm, rotary positions, SwiGLU, tied embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.bench.lab.tokenizer import VOCABULARY

HEAD_WIDTH = 32
MAX_TOKENS = 256
"""Longest context; rows of training data are shorter."""
ROPE_BASE = 10_000.0
NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a model and the learning rate it is trained with."""

    width: int
    layers: int
    hidden: int
    learning_rate: float

    @property
    def heads(self) -> int:
        """Attention heads of `HEAD_WIDTH`."""
        return self.width // HEAD_WIDTH


SIZES = {
    "draft": Size(64, 2, 160, 5e-3),
    "small": Size(96, 4, 256, 4e-3),
    "large": Size(96, 8, 256, 3e-3),
}


@dataclass(slots=True)
class Cache:
    """Keys and values [layers, 2, rows, heads, positions, head width] and how many positions are filled."""

    state: Tensor
    filled: int = 0


class Layer(nn.Module):
    """Attention and feed-forward with residuals."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention_norm = nn.Parameter(torch.ones(size.width))
        self.qkv = nn.Linear(size.width, 3 * size.width, bias=False)
        self.output = nn.Linear(size.width, size.width, bias=False)
        self.ffn_norm = nn.Parameter(torch.ones(size.width))
        self.gate_up = nn.Linear(size.width, 2 * size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, bias: Tensor | None, past: tuple[Tensor, int] | None) -> Tensor:
        """One layer; ``past`` is this layer's part of a cache and where the new positions begin."""
        rows, length, width = x.shape
        normed = functional.rms_norm(x, (width,), self.attention_norm, NORM_EPS)
        q, k, v = self.qkv(normed).view(rows, length, 3 * self.heads, HEAD_WIDTH).transpose(1, 2).chunk(3, dim=1)
        q, k = rotated(q, rotation), rotated(k, rotation)
        if past is not None:
            cache, start = past
            cache[0, :, :, start : start + length] = k
            cache[1, :, :, start : start + length] = v
            k, v = cache[0, :, :, : start + length].to(q.dtype), cache[1, :, :, : start + length].to(q.dtype)
        mixed = attended(q, k, v.to(q.dtype), bias)
        x = x + self.output(mixed.transpose(1, 2).reshape(rows, length, width))
        gate, up = self.gate_up(functional.rms_norm(x, (width,), self.ffn_norm, NORM_EPS)).chunk(2, dim=-1)
        hidden: Tensor = self.down(functional.silu(gate) * up)
        return x + hidden


class Llama(nn.Module):
    """Token ids [rows, length] to logits [rows, length, vocabulary]."""

    rotation: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(len(VOCABULARY), size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.width))
        self.register_buffer("rotation", rotation_table(2 * MAX_TOKENS), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                is_residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 if not is_residual else 0.02 / (2 * size.layers) ** 0.5)

    def forward(self, tokens: Tensor, bias: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits.

        Args:
            tokens: Ids [rows, length].
            bias: Added to the attention scores, [rows, 1, length, keys]; None for plain causal attention.
            cache: Earlier positions; the new ones are added to it.
        """
        return self.logits(self.states(tokens, bias, cache)[-1])

    def states(self, tokens: Tensor, bias: Tensor | None = None, cache: Cache | None = None) -> list[Tensor]:
        """What every layer leaves, [rows, length, width] each."""
        start = cache.filled if cache is not None else 0
        rotation = self.rotation[:, start : start + tokens.shape[1]]
        x: Tensor = self.embedding(tokens)
        states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, bias, (cache.state[index], start) if cache is not None else None)
            states.append(x)
        if cache is not None:
            cache.filled = start + tokens.shape[1]
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states of the last layer."""
        normed = functional.rms_norm(hidden, (self.size.width,), self.norm, NORM_EPS)
        return functional.linear(normed, self.embedding.weight)

    @property
    def num_parameters(self) -> int:
        """Tied weights counted once."""
        return sum(weight.numel() for weight in self.parameters())


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of [rows, heads, length, head width], causal where there is no bias.

    Where there is one, on a CPU it is spelled out: the fused operator's backward pass takes twice as long there.
    """
    if bias is None or q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None)
    scores = torch.matmul(q * HEAD_WIDTH**-0.5, k.transpose(-1, -2)) + bias
    return torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)


def rotation_table(positions: int) -> Tensor:
    """Cosines and sines [2, positions, head width], halves repeated as in the Hugging Face layout."""
    frequencies = ROPE_BASE ** -(torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32) / HEAD_WIDTH)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary positions on [rows, heads, length, head width]."""
    left, right = x.chunk(2, dim=-1)
    cosines, sines = rotation.to(x.dtype)
    turned: Tensor = x * cosines + torch.cat([-right, left], dim=-1) * sines
    return turned
