"""What a job tells its watchers: a view of its journal, plus text as it is generated.

Events with a `seq` are durable: they are rows of the journal and can be read again after a restart. Deltas and
spending updates have none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.store import JournalRow

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in a job.

    Attributes:
        kind: A kind of `orchestrator.journal` row (``begin``, ``sample``, ``done``, ``final``, ...), or ``delta``
            (text of a sample), ``answer_delta`` (text of the answer the policy committed to), ``spent``, ``result``.
        data: JSON values; for ``result``, the key ``result`` holds the `orchestrator.job.Result`.
        seq: The row's position in the journal; None for what is not durable.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)  # Any: JSON values
    seq: int | None = None

    @classmethod
    def of(cls, row: JournalRow) -> Event:
        """The event that a journal row is."""
        return cls(row.kind, row.data, row.seq)


NOT_DURABLE = frozenset({"delta", "spent"})
"""Kinds of events that only those want who watch a job; there are many of them."""

Publish = Callable[[Event], None]
"""Hands an event to whoever watches; must not block."""

IsWatched = Callable[[], bool]
"""Whether anybody wants to be told what is not durable now: text as it is generated, and spending."""


def careful(on_event: Publish) -> Publish:
    """A watcher whose mistakes do not become the job's."""

    def publish(event: Event) -> None:
        try:
            on_event(event)
        except Exception:  # noqa: BLE001  # the watcher is the user's code
            _LOG.exception("on_event raised", extra={"kind": event.kind})

    return publish
