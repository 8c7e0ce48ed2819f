"""The KV memory of one replica: pieces of prefixes that trees share, and what live sequences have written.

Pieces in use are pinned; the others stay until room is needed and go in order of last use, children before parents.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.planning.simulation.work import Prefix


@dataclass(slots=True)
class KvCache:
    """Counts tokens; whoever asks it to hold more than there is room for has asked `make_room` first.

    Attributes:
        capacity: Tokens that fit.
        num_used: Tokens held: pieces, pinned or not, and those of live sequences.
        num_loose: Tokens of pieces that nobody uses now.
        peak: Most that were ever held.
        evicted_tokens: Tokens of pieces given up so far.
    """

    capacity: int
    num_used: int = 0
    num_loose: int = 0
    peak: int = 0
    evicted_tokens: int = 0
    _pins: dict[int, int] = field(default_factory=dict)
    _pinned_tokens: dict[int, int] = field(default_factory=dict)
    _loose: OrderedDict[int, int] = field(default_factory=OrderedDict)

    def claim(self, prefix: Prefix, extra: int, *, spare: int = 0) -> int | None:
        """Pins a prefix and holds ``extra`` tokens for a sequence, giving up what others have left behind.

        Args:
            prefix: What the sequence continues.
            extra: Tokens it needs at once.
            spare: Tokens that must be free beside that.

        Returns:
            How many tokens of the prefix have to be read: all those after the first piece that is not here. None if
            there is no room; then nothing has changed.
        """
        pins, loose = self._pins, self._loose
        missing = additional = reused = 0
        for piece, tokens in prefix:
            if piece in pins:
                missing += tokens if missing else 0
            elif piece in loose:
                missing += tokens if missing else 0
                reused += loose[piece]
            else:
                missing += tokens
                additional += tokens
        room = self.capacity - self.num_used
        if room + self.num_loose - reused < additional + extra + spare:
            return None
        for piece, tokens in prefix:
            uses = pins.get(piece, 0)
            pins[piece] = uses + 1
            if not uses:
                held = loose.pop(piece, None)
                self._pinned_tokens[piece] = tokens if held is None else held
                self.num_loose -= held or 0
        self.make_room(additional + extra + spare)
        self.grow(additional + extra)
        return missing

    def unpin(self, prefix: Prefix) -> None:
        """The prefix is used once less; its last pieces are given up before its first ones."""
        pins, loose = self._pins, self._loose
        for piece, _ in reversed(prefix):
            uses = pins[piece] - 1
            if uses:
                pins[piece] = uses
            else:
                del pins[piece]
                tokens = loose[piece] = self._pinned_tokens.pop(piece)
                self.num_loose += tokens

    def grow(self, tokens: int) -> None:
        """Live sequences hold so many more."""
        self.num_used += tokens
        self._note_peak()

    def shrink(self, tokens: int) -> None:
        """Live sequences hold so many fewer."""
        self.num_used -= tokens

    def keep(self, piece: int, tokens: int) -> None:
        """What a sequence wrote stays as a piece that nobody uses yet; its tokens were counted as the sequence's."""
        if piece in self._pins or piece in self._loose:
            self.num_used -= tokens
            return
        self._loose[piece] = tokens
        self.num_loose += tokens

    def make_room(self, tokens: int) -> bool:
        """Gives up pieces nobody uses until so many tokens fit; False if they never will, and then nothing is done."""
        if self.capacity - self.num_used >= tokens:
            return True
        if self.capacity - self.num_used + self.num_loose < tokens:
            return False
        while self.capacity - self.num_used < tokens:
            _, dropped = self._loose.popitem(last=False)
            self.num_used -= dropped
            self.num_loose -= dropped
            self.evicted_tokens += dropped
        return True

    def forget(self, pieces: Iterable[int]) -> None:
        """Their tree is over: those that nobody uses go at once."""
        for piece in pieces:
            tokens = self._loose.pop(piece, None)
            if tokens is not None:
                self.num_used -= tokens
                self.num_loose -= tokens

    def check_integrity(self, live_tokens: int) -> None:
        """Asserts that the counts agree with what is held, given what live sequences hold."""
        pinned = sum(self._pinned_tokens.values())
        assert self._pins.keys() == self._pinned_tokens.keys()
        assert not self._pins.keys() & self._loose.keys()
        assert self.num_loose == sum(self._loose.values())
        assert self.num_used == pinned + self.num_loose + live_tokens
        assert self.num_used <= self.peak <= self.capacity

    def _note_peak(self) -> None:
        self.peak = max(self.peak, self.num_used)
