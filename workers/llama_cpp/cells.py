"""The KV cells of one context, as the prefix cache asks for them: addressed by sequence id and position."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Extent(NamedTuple):
    """First and last position that a sequence holds; -1 and -1 if it holds none."""

    first: int
    last: int


class Memory(Protocol):
    """Cells, each of which holds one token at one position for a set of sequences."""

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Makes ``target`` share the cells of ``source`` at positions [start, end)."""
        ...

    def remove(self, sequence: int, start: int) -> None:
        """Takes ``sequence`` off its cells from position ``start`` on; cells nobody holds become free."""
        ...

    def remove_range(self, sequence: int, start: int, end: int) -> None:
        """The same for positions [start, end)."""
        ...

    def extent(self, sequence: int) -> Extent:
        """Positions the sequence holds now."""
        ...
