"""How much of the waiting prompts one batch reads: enough to be efficient, not so much that others wait long."""

from __future__ import annotations

_SMALLEST_CHUNK = 32
"""Rows that a batch may always read; 128 cost 8 to 17 % less per row on models of 135 and 500 million parameters."""
_BUSY_STEP_S = 0.1
"""Seconds that reading prompts may add to a batch while others write."""
_READING_STEP_S = 1.0
"""The same while none does: no sample stalls, and rows cost least in chunks of about 128."""


class Pace:
    """Seconds per row, as measured, turned into rows per batch.

    Args:
        batch_tokens: Most rows of a batch.
        is_fixed: Every batch may be full, however long it takes: its shape depends on the prompt alone.
    """

    def __init__(self, batch_tokens: int, *, is_fixed: bool) -> None:
        self._batch_tokens = batch_tokens
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
            return self._batch_tokens
        seconds = _BUSY_STEP_S if is_writing else _READING_STEP_S
        most = min(self._batch_tokens, max(int(seconds / self._row_s), _SMALLEST_CHUNK))
        num_chunks = -(-pending // most)
        return -(-pending // num_chunks) if num_chunks > 1 and not is_writing else most
