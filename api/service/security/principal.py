"""Who calls, and what they may spend; made by the gate, read by the service."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

from orchestrator.budget import UNLIMITED, Amount, Budget
from orchestrator.errors import InvalidRequest

TOTAL = "total"
"""The period of an account that never ends."""
NO_KEY = "no-key"
"""The account of callers without a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What one API key may spend and how often it may ask; None means no limit.

    Attributes:
        per_request: Caps on each job; a job's own budget is lowered to them, field by field.
        per_day: Caps on what all jobs of a UTC day cost together; only caps that add up (not seconds).
        total: The same for the key's whole life.
        rate_per_s: Requests per second that change something, on average; ten times as many may only look.
        burst: Requests that may come at once.
        max_running: Chats of the key's tenant that one process runs at once.
        max_waiting: Jobs of the key's tenant that may wait in the queue.
    """

    per_request: Budget = UNLIMITED
    per_day: Budget = UNLIMITED
    total: Budget = UNLIMITED
    rate_per_s: float | None = None
    burst: int = 1
    max_running: int | None = None
    max_waiting: int | None = None

    def __post_init__(self) -> None:
        _check_caps(self.per_request, field="per_request", others=_NO_CAPS)
        for name in ("per_day", "total"):
            _check_caps(getattr(self, name), field=name, others=_NO_CAPS | {"max_seconds"})
        if self.rate_per_s is not None and not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise InvalidRequest(
                f"the rate must be a number above 0, not {self.rate_per_s!r}", field="rate", value=self.rate_per_s
            )
        for name in ("burst", "max_running", "max_waiting"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(f"{name} must be at least 1, not {value}", field=name, value=value)

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
        if self.per_request is UNLIMITED:
            return budget
        own = budget.to_json()
        lowest: dict[str, Any] = {  # Any: int or float by field
            name: min(own[name], cap) if name in own else cap for name, cap in self.per_request.to_json().items()
        }
        return replace(budget, **lowest)

    def to_json(self) -> dict[str, Any]:
        """JSON values; limits that are not set are left out."""
        data: dict[str, Any] = {}  # Any: JSON values
        for item in fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                data[item.name] = value.to_json() if isinstance(value, Budget) else value
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        values = dict(data)
        for name in {"per_request", "per_day", "total"} & data.keys():
            values[name] = Budget.from_json(data[name])
        return cls(**values)


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
    cache_salt: str = field(default="", repr=False)

    @property
    def account(self) -> str:
        """The name of its books in the store."""
        return self.key_id or NO_KEY


def day_of(now: float) -> str:
    """The UTC day of a time in seconds since the epoch, for instance ``2026-11-21``."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


def _amount(budget: Budget) -> Amount | None:
    caps = budget.caps()
    return Amount(**caps) if caps else None


_NO_CAPS = frozenset({"target_confidence", "answer_reserve_tokens"})


def _check_caps(budget: Budget, *, field: str, others: frozenset[str]) -> None:
    """Whether it caps only what can be capped so, and nothing is rounded to 0, which would be no cap at all."""
    for name, value in budget.to_json().items():
        if name in others:
            raise InvalidRequest(f"{field} cannot limit {name}", field=field, value=value)
    for name, cap in budget.caps().items():
        if not cap and field != "per_request":
            raise InvalidRequest(f"{field} must allow more than 0 of {name}", field=field, value=0)
