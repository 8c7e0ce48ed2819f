"""Ray Serve says everything it does to whoever imports it, unless it is imported here."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")

_PROGRAM = """
import logging
from orchestrator.workers.ray.serve_module import imported_serve
serve = imported_serve()
logger = logging.getLogger("ray.serve")
print(serve.__name__, logger.isEnabledFor(logging.INFO), logger.isEnabledFor(logging.WARNING))
"""


def test_only_warnings_of_serve_are_heard() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["ray.serve", "False", "True"], done.stderr
