"""How much of the waiting prompts one batch reads: enough to be efficient, not so much that others wait long."""

from __future__ import annotations

_SMALLEST_CHUNK = 32
"""Rows that a batch may always read."""
_EFFICIENT_CHUNK = 128
"""Rows that cost 8 to 17 % less each than in chunks of 32, on models of 135 and 500 million parameters on a CPU;
more rows are not cheaper still."""
_BUSY_STEP_S = 0.1
"""Seconds that reading prompts may add to a batch while others write."""
_READING_STEP_S = 0.4
"""The same while none does."""
_EFFICIENT_STEP_S = 1.5
"""The same for an efficient chunk: no sample stalls meanwhile, only a cancellation or a new request waits."""


class Pace:
    """Seconds per row, as measured, turned into rows per batch.

    Args:
        batch_tokens: Most rows of a batch.
        is_fixed: Every batch may be full, however long it takes: its shape depends on the prompt alone.
    """

    def __init__(self, batch_tokens: int, *, is_fixed: bool) -> None:
        self.batch_tokens = batch_tokens
        self._is_fixed = is_fixed
        self._row_s = 0.005

    def note(self, num_rows: int, seconds: float) -> None:
        """Learns from a batch that was computed."""
        if num_rows >= _SMALLEST_CHUNK:
            self._row_s += 0.3 * (seconds / num_rows - self._row_s)

    def prefill_tokens(self, pending: int, *, is_writing: bool) -> int:
        """Most prompt tokens to read in the next batch.

        What does not fit is cut evenly: a short rest would cost almost as much as a whole chunk.

        Args:
            pending: Prompt tokens that wait.
            is_writing: Whether samples wait for the batch to end.
        """
        if self._is_fixed:
            return self.batch_tokens
        if is_writing:
            return min(self.batch_tokens, max(int(_BUSY_STEP_S / self._row_s), _SMALLEST_CHUNK))
        efficient = min(int(_EFFICIENT_STEP_S / self._row_s), _EFFICIENT_CHUNK)
        most = min(self.batch_tokens, max(int(_READING_STEP_S / self._row_s), efficient, _SMALLEST_CHUNK))
        num_chunks = -(-pending // most)
        return -(-pending // num_chunks) if num_chunks > 1 else most
