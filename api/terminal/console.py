"""The console that results are printed on: as wide as the terminal, and wide enough for scripts elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_FILES = 200


def result_console() -> Console:
    """Stdout; markup in texts is no markup here, since texts come from models."""
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(highlight=False, markup=False, emoji=False, width=None if is_terminal else _WIDTH_OF_FILES)
