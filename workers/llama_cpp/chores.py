"""Other work for the decode thread, done in pieces between batches."""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Chore(Protocol):
    """A piece of work that is no batch of the model's context."""

    def advance(self) -> bool:
        """Does a piece; True when nothing is left."""
        ...

    def fail(self, error: Exception) -> None:
        """Ends it with an error."""
        ...


class Chores:
    """Chores one after another."""

    def __init__(self) -> None:
        self._waiting: deque[Chore] = deque()

    def add(self, chore: Chore) -> None:
        """Takes in another one."""
        self._waiting.append(chore)

    def advance(self) -> bool:
        """Does a piece of the first; False if there is none."""
        if not self._waiting:
            return False
        chore = self._waiting[0]
        try:
            is_done = chore.advance()
        except Exception as error:  # noqa: BLE001  handed to whoever asked for it
            chore.fail(error)
            is_done = True
        if is_done:
            self._waiting.popleft()
        return True

    def fail(self, error: Exception) -> None:
        """Ends all of them with an error."""
        for chore in self._waiting:
            chore.fail(error)
