"""Makes a model deeper without changing what it computes, so that a larger one goes on from where a smaller one is.

``python3 bench/lab/bare.py growing FROM.pt LARGE.pt --size large``: after every layer comes one whose two outputs are
zero, as in progressive stacking (Gong et al., 2019) but begun as the identity (Net2Net; Chen et al., 2016).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from orchestrator.bench.lab.checkpoint import load_file, save
from orchestrator.bench.lab.model import SIZES, Llama, Size


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
