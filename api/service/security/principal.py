"""Who calls, and what they may spend; made by the gate, read by the service."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

from orchestrator.budget import UNLIMITED, Amount, Budget

TOTAL = "total"
"""The period of an account that never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What one API key may spend and how often it may ask; None means no limit.

    Attributes:
        per_request: Caps on each job; a job's own budget is lowered to them, field by field.
        per_day: Caps on what all jobs of a UTC day cost together; only caps that add up (not seconds).
        total: The same for the key's whole life.
        rate_per_s: Requests per second, on average.
        burst: Requests that may come at once; at least 1.
        max_running: Jobs of the key's tenant that may run at once.
        max_waiting: Jobs of the key's tenant that may wait in the queue.
    """

    per_request: Budget = UNLIMITED
    per_day: Budget = UNLIMITED
    total: Budget = UNLIMITED
    rate_per_s: float | None = None
    burst: int = 1
    max_running: int | None = None
    max_waiting: int | None = None

    def caps(self, now: float) -> dict[str, Amount | None]:
        """The periods that a job is booked in, with their caps, for `orchestrator.store.Accounts.set_aside`.

        Args:
            now: Seconds since the epoch.

        Returns:
            The UTC day (``2026-11-21``) and ``total``; None where nothing is capped and only counted.
        """
        return {day_of(now): _amount(self.per_day), TOTAL: _amount(self.total)}

    def lowered(self, budget: Budget) -> Budget:
        """The job's budget where it is lower than the cap per request, else that cap, field by field."""
        own, caps = budget.to_json(), self.per_request.to_json()
        lowest = {name: min(own[name], cap) if name in own else cap for name, cap in caps.items()}
        return replace(budget, **lowest)

    def to_json(self) -> dict[str, Any]:
        """JSON values; limits that are not set are left out."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller that the gate has let in.

    Attributes:
        tenant: Whose jobs it sees; empty where the service has no keys.
        key_id: The key that pays; empty for none.
        limits: What that key may spend.
        is_admin: Whether it sees the usage of all keys of its tenant.
        cache_salt: Given to engines, so that tenants cannot time each other's prefix cache; empty for one tenant.
    """

    tenant: str = ""
    key_id: str = ""
    limits: KeyLimits = field(default_factory=KeyLimits)
    is_admin: bool = False
    cache_salt: str = ""

    @property
    def account(self) -> str:
        """The name of its books in the store."""
        return self.key_id or "no-key"


def day_of(now: float) -> str:
    """The UTC day of a time in seconds since the epoch, for instance ``2026-11-21``."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def _amount(budget: Budget) -> Amount | None:
    caps = budget.caps()
    return Amount(**caps) if caps else None
