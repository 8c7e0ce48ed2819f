"""What ``ttc fleet check`` has to say: sentences with a place in the file and a weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: An error keeps the fleet from starting; a warning does not; a note is good to know.
        place: The key of the file, for instance ``models.small.accelerator``.
        message: What is found there, and the way out.
    """

    level: Level
    place: str
    message: str

    def to_json(self) -> dict[str, str]:
        """JSON values."""
        return asdict(self)


def error(place: str, message: str) -> Finding:
    """A finding that keeps the fleet from starting."""
    return Finding(Level.ERROR, place, message)


def warning(place: str, message: str) -> Finding:
    """A finding that does not."""
    return Finding(Level.WARNING, place, message)


def note(place: str, message: str) -> Finding:
    """Something that is good to know."""
    return Finding(Level.NOTE, place, message)


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether the fleet cannot start."""
    return any(finding.level is Level.ERROR for finding in findings)
