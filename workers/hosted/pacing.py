"""How long a host process may take for what, and how soon another one follows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """Times of a host's life, in seconds.

    Attributes:
        start_s: It may take so long to start and to open the engine.
        ping_every_s: It is asked for its health so often.
        ping_patience_s: One that has not answered for so long hangs, and is killed.
        wait_s: A request waits at most so long for a host that is being started again.
        first_delay_s: Before the second start in a row; the first one after a death comes at once. Doubles each time.
        longest_delay_s: But grows no further than this.
        stable_s: A host that has lived so long clears the record of those before it.
        farewell_s: A host that is told to end is killed after so long.
        vocabulary_patience_s: A call about the vocabulary, which blocks the event loop, may take so long.
    """

    start_s: float = 600.0
    ping_every_s: float = 5.0
    ping_patience_s: float = 30.0
    wait_s: float = 60.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    stable_s: float = 60.0
    farewell_s: float = 10.0
    vocabulary_patience_s: float = 1.0

    def delay_s(self, num_deaths: int) -> float:
        """How long to wait before the next start, after so many deaths and failed starts in a row."""
        if num_deaths <= 1:
            return 0.0
        doublings = min(num_deaths - 2, 30)
        return min(self.first_delay_s * float(2**doublings), self.longest_delay_s)
