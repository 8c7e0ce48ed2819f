"""One `EngineHealth` of many: that of all replicas of a model, through their coming and going."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.engine_health import PRESENT, TOTALS, EngineHealth, added


class Totals:
    """What was seen of the replicas of one model."""

    def __init__(self) -> None:
        self._last: dict[str, EngineHealth] = {}
        self._gone = EngineHealth()
        self._num_silent = 0

    def saw(self, replicas: Mapping[str, EngineHealth | None]) -> None:
        """How the replicas that there are say they are; None for those that do not say.

        Totals of one that is gone go on counting, as they were last seen.
        """
        for replica in [replica for replica in self._last if replica not in replicas]:
            self._gone = added(self._gone, self._last.pop(replica), TOTALS)
        self._last.update({replica: health for replica, health in replicas.items() if health is not None})
        self._num_silent = sum(health is None for health in replicas.values())

    def sum(self) -> EngineHealth:
        """All of them together; ready if one of them is."""
        whole = self._gone
        for health in self._last.values():
            whole = added(whole, health, (*TOTALS, *PRESENT))
        is_ready = any(health.is_ready for health in self._last.values())
        details = sorted({health.detail for health in self._last.values() if health.detail})
        if self._num_silent:
            details.append(f"{self._num_silent} replicas do not say how they are")
        if not self._last:
            details.append("no replica is running")
        return replace(whole, is_ready=is_ready, detail="; ".join(details), is_shared=True)
