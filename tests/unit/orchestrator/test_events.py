from __future__ import annotations

from orchestrator.events import Event
from orchestrator.store import JournalRow


def test_a_row_is_a_durable_event_and_anything_else_is_not() -> None:
    event = Event.of(JournalRow(7, "done", {"a": 1}))
    assert (event.kind, event.data, event.seq) == ("done", {"a": 1}, 7)
    assert Event("delta").seq is None
