"""Teaches a layer on top of a generator to tell how likely each token was, from what was predicted one token before.

What tells a slip is that the generator expected something else. By descent on verdicts alone a layer finds that out
for letters and cells, and hardly for 61 numbers: whether two vectors name the same number is a product of both, and
there is one verdict a step. So the first layer on top is taught its two parts one after the other, in two minutes: to
attend to the token before, and then, on pairs of neighbours, to say the log likelihood.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.bench.lab.model import HEAD_WIDTH, NORM_EPS, Layer, rotated

_ROWS = 12
_PAIRS = 2048
_LOUDNESS = 4.0
"""Standard deviations of the hidden state by which one of the log likelihood moves it."""


@dataclass(frozen=True, slots=True)
class Read:
    """Sequences as the generator read them.

    Attributes:
        states: What its last layer left [rows, length, width].
        log_likelihoods: Of each token after those before it, nats [rows, length].
        counts: Whether a token is of a solution [rows, length].
        is_number: Whether a token follows "=" [rows, length]; every other pair is one of these, being hard.
    """

    states: Tensor
    log_likelihoods: Tensor
    counts: Tensor
    is_number: Tensor


def teach(layer: Layer, read: Sequence[Read], rotation: Tensor, *, steps: int, seed: int) -> None:
    """Teaches in place: so many steps to look back, which are quick ones, and as many to compare."""
    _teach_attention(layer, read, rotation, steps=steps, seed=seed)
    _teach_comparison(layer, read, steps=steps, seed=seed)


def _teach_attention(layer: Layer, read: Sequence[Read], rotation: Tensor, *, steps: int, seed: int) -> None:
    """Keys and queries of one head, copied to all, by the log of the attention to the token before."""
    width, rng = layer.qkv.weight.shape[1], random.Random(seed)
    query, key = (nn.Parameter(layer.qkv.weight.detach()[start : start + HEAD_WIDTH].clone()) for start in (0, width))

    def loss() -> Tensor:
        some = rng.choice(read)
        rows = torch.tensor([rng.randrange(len(some.states)) for _ in range(_ROWS)])
        normed = functional.rms_norm(some.states[rows].float(), (width,))
        length = normed.shape[1]
        turn = rotation[:, :length]
        scores = rotated(normed @ query.T, turn) @ rotated(normed @ key.T, turn).transpose(-1, -2)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        logs = (scores / math.sqrt(HEAD_WIDTH)).masked_fill(later, float("-inf")).log_softmax(-1)
        return -logs.diagonal(-1, -2, -1)[some.counts[rows, 1:]].mean()

    _descend([query, key], loss, rate=0.02, steps=steps)
    heads = width // HEAD_WIDTH
    with torch.no_grad():
        layer.qkv.weight[:width] = query.repeat(heads, 1)
        layer.qkv.weight[width : 2 * width] = key.repeat(heads, 1)
        layer.qkv.weight[2 * width :] = torch.eye(width)


def _teach_comparison(layer: Layer, read: Sequence[Read], *, steps: int, seed: int) -> None:
    """The rest of the layer, on pairs of neighbours; what it says goes into a direction of its own."""
    width, hidden = layer.qkv.weight.shape[1], layer.down.weight.shape[1]
    before, own, likelihoods, numbers = _pairs(read)
    generator = torch.Generator().manual_seed(seed)
    carry = nn.Parameter(3 * torch.linalg.qr(torch.randn(width, width, generator=generator))[0])
    gate_up = nn.Parameter(0.1 * torch.randn(2 * hidden, width, generator=generator))
    down = nn.Parameter(0.05 * torch.randn(hidden, generator=generator))
    norm, shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(()))

    def said(chosen: Tensor) -> tuple[Tensor, Tensor]:
        mixed = own[chosen].float() + functional.rms_norm(before[chosen].float(), (width,)) @ carry.T
        gate, up = (functional.rms_norm(mixed, (width,), norm, NORM_EPS) @ gate_up.T).chunk(2, dim=-1)
        return (functional.silu(gate) * up) @ down + shift, mixed

    def draw() -> Tensor:
        any_pair = torch.randint(0, len(own), (_PAIRS,), generator=generator)
        return torch.cat([any_pair, numbers[torch.randint(0, len(numbers), (_PAIRS,), generator=generator)]])

    def loss() -> Tensor:
        chosen = draw()
        return functional.smooth_l1_loss(said(chosen)[0], likelihoods[chosen])

    _descend([carry, gate_up, down, norm, shift], loss, rate=5e-3, steps=steps)
    with torch.no_grad():
        spoken, mixed = said(draw())
        direction = functional.normalize(torch.randn(width, generator=generator), dim=0)
        loudness = _LOUDNESS * mixed.square().mean().sqrt() / spoken.std()
        layer.output.weight.copy_(carry)
        layer.ffn_norm.copy_(norm)
        layer.gate_up.weight.copy_(gate_up)
        layer.down.weight.copy_(loudness * torch.outer(direction, down))


def _pairs(read: Sequence[Read]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States before, states and log likelihoods of all tokens that count, and the indices of numbers among them."""
    found: Iterator[tuple[Tensor, ...]] = (
        (
            some.states[:, :-1][counts],
            some.states[:, 1:][counts],
            some.log_likelihoods[:, 1:][counts],
            some.is_number[:, 1:][counts],
        )
        for some in read
        for counts in (some.counts[:, 1:],)
    )
    before, own, likelihoods, is_number = map(torch.cat, zip(*found, strict=True))
    numbers = is_number.nonzero()[:, 0]
    return before, own, likelihoods, numbers if len(numbers) else torch.arange(len(own))


def _descend(weights: Sequence[nn.Parameter], loss: Callable[[], Tensor], *, rate: float, steps: int) -> None:
    optimizer = torch.optim.Adam(weights, rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * max(1 - step / steps, 0.02)
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
