"""Runs jobs of the queue: takes them, keeps their leases, ends those that are to be cancelled, lets go when told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.events import Publish
from orchestrator.in_process import Orchestrator
from orchestrator.store import JobRecord

Observer = Callable[[JobRecord], Publish]
"""Called when a job starts to run in this process; what it returns is called with each of the job's events."""


class Runner:
    """Takes jobs from the store of an orchestrator and runs them, so many at once.

    Args:
        orchestrator: Open.
        concurrency: Most jobs at once.
        most_per_tenant: Most jobs of one tenant at once, over all processes; None for no limit.
        observers: Who is told what jobs do.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        concurrency: int,
        most_per_tenant: int | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.observers = list(observers)

    @property
    def num_running(self) -> int:
        """Jobs that run here now."""
        raise NotImplementedError

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new any more."""
        raise NotImplementedError

    async def run(self) -> None:
        """Takes and runs jobs until `drain`; a store that fails is asked again after a while."""
        raise NotImplementedError

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new, gives what runs ``grace_s`` seconds to end, and lets the rest go back to the queue."""
        raise NotImplementedError
