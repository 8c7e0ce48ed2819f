"""Counts of several engines as one."""

from __future__ import annotations

from dataclasses import fields

from orchestrator.engine_health import PRESENT, TOTALS, EngineHealth, added


def test_every_counter_is_a_total_or_of_the_present() -> None:
    counters = {field.name for field in fields(EngineHealth)} - {"is_ready", "detail", "is_shared"}
    assert counters == {*TOTALS, *PRESENT}
    assert not set(TOTALS) & set(PRESENT)


def test_only_what_is_named_is_added() -> None:
    one, other = EngineHealth(requests=1, kv_cells=5, detail="own"), EngineHealth(requests=2, kv_cells=7)
    assert added(one, other, TOTALS) == EngineHealth(requests=3, kv_cells=5, detail="own")
    assert added(one, other, (*TOTALS, *PRESENT)).kv_cells == 12
