"""Runs a module of the lab where this package and its dependencies are not installed, such as on a borrowed GPU.

``python3 bench/lab/bare.py train --out OUT``: PyTorch and numpy suffice.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Puts an empty ``orchestrator`` with the folder ``bench`` in it in the package's place, and runs the module."""
    root = Path(__file__).resolve().parents[2]
    for name, folder in (("orchestrator", root / "orchestrator"), ("orchestrator.bench", root / "bench")):
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    del sys.argv[0]
    runpy.run_module(f"orchestrator.bench.lab.{sys.argv[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
