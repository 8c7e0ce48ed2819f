"""What a pull tells whoever waits for it, and how a source says that it failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["waiting", "downloading", "verifying", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is.

    Attributes:
        model: The model's name.
        stage: ``waiting`` for another process that pulls the same model, ``downloading``, ``verifying``, ``done``.
        done_bytes: Of this stage; may fall back when a source starts over or another source is tried.
        total_bytes: Of this stage.
        source: Which source, for people.
    """

    model: str
    stage: Stage
    done_bytes: int
    total_bytes: int
    source: str = ""


ProgressCallback = Callable[[Progress], None]
Report = Callable[[int], None]
"""Told the number of bytes present, by a source while it downloads."""


class SourceFailed(Exception):
    """One source could not deliver; the next is tried. The message is the reason, for people."""
