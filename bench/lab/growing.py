"""Makes a model deeper without changing what it computes, so that a larger one goes on from where a smaller one is.

``python3 bench/lab/bare.py growing FROM.pt LARGE.pt --size large``: after every layer comes one whose two outputs are
zero, as in progressive stacking (Gong et al., 2019) but begun as the identity (Net2Net; Chen et al., 2016). `deepened`
puts layers on top, which is what a model needs that is to look back at its own predictions.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.bench.lab.checkpoint import load_file, save
from orchestrator.bench.lab.model import HEAD_WIDTH, SIZES, Layer, Llama, Size, rotated, rotation_table


def grown(model: Llama, size: Size) -> Llama:
    """A model of another depth, a multiple of this one's, and the same function.

    Raises:
        ValueError: The sizes differ in more than their depth, or it is no multiple.
    """
    old = model.size
    factor, rest = divmod(size.layers, old.layers)
    if rest or (size.width, size.hidden) != (old.width, old.hidden):
        raise ValueError(f"{old} cannot grow to {size}")
    larger = Llama(size)
    weights = model.state_dict()
    with torch.no_grad():
        for name, weight in larger.named_parameters():
            parts = name.split(".")
            if parts[0] != "layers":
                weight.copy_(weights[name])
                continue
            source, offset = divmod(int(parts[1]), factor)
            if offset == 0:
                weight.copy_(weights[".".join(["layers", str(source), *parts[2:]])])
            elif name.endswith(("output.weight", "down.weight")):
                weight.zero_()
    return larger


_LOOKING_BACK = 5
"""Rotary frequencies of a head that looks one token back; the quickest ones tell neighbours apart."""
_SHARPNESS = 25.0
"""Attention score of the token before; that of the token itself and the one before that is an eighth lower."""
_RIDGE = 0.01


def deepened(model: Llama, num_layers: int, normed: Tensor) -> Llama:
    """The model with more layers on top, the first of which looks at what was predicted one token before.

    A generator works out what comes next in its last layers; whether the token that came is what it expected can be
    told one layer later at the earliest, by a head that looks one token back. Such a head is hard to find by descent
    and easy to write down: keys and queries that do not depend on the text, turned by one position. There being no
    biases, they are read off the direction along which hidden states vary least from one (least squares).

    Args:
        model: The generator.
        num_layers: How many to add. Their outputs are small at first, but for the first one's attention.
        normed: Hidden states after the last layer, RMS-normed without weights [tokens, width].
    """
    size = model.size
    deeper = Llama(replace(size, layers=size.layers + num_layers))
    weights = model.state_dict()
    with torch.no_grad():
        for name, weight in deeper.named_parameters():
            if name in weights:
                weight.copy_(weights[name])
            elif weight.dim() == 2:
                nn.init.normal_(weight, std=0.01 if name.endswith(("output.weight", "down.weight")) else 0.05)
        layer = deeper.layers[size.layers]
        assert isinstance(layer, Layer)
        _look_back(layer.qkv.weight, layer.output.weight, normed)
    return deeper


def _look_back(qkv: Tensor, output: Tensor, normed: Tensor) -> None:
    """Writes weights of attention to the token before that copies half of what is there, in place."""
    width = qkv.shape[1]
    moments = normed.T @ normed / len(normed) + _RIDGE * torch.eye(width)
    constant = torch.linalg.solve(moments, normed.mean(0))  # times a normed hidden state: about 1
    key = torch.zeros(1, HEAD_WIDTH)
    key[0, :_LOOKING_BACK] = math.sqrt(_SHARPNESS * math.sqrt(HEAD_WIDTH) / _LOOKING_BACK)
    one_back = rotation_table(2)[:, 1:] * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    heads = width // HEAD_WIDTH
    qkv[:width] = torch.outer(rotated(key, one_back)[0].repeat(heads), constant)
    qkv[width : 2 * width] = torch.outer(key[0].repeat(heads), constant)
    qkv[2 * width :] = torch.eye(width)
    output.copy_(0.5 * torch.eye(width))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--size", default="large", choices=list(SIZES))
    options = parser.parse_args()
    model, facts = load_file(options.source)
    save(grown(model, SIZES[options.size]), options.result, {**facts, "grown_from": options.source.stem})


if __name__ == "__main__":
    main()
