"""Where jobs and their journals are kept: the records and the protocol; implementations are in `orchestrator.stores`.

A store loses nothing it has acknowledged, and lets only the controller that holds a job's lease write to its journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

SCHEMA_VERSION = 1
"""Version of journal rows and job records; stores refuse data of a later one."""


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for a person
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One durable fact of a job.

    Attributes:
        seq: Position in the job's journal, from 0 without gaps.
        kind: What happened; the kinds are listed in `orchestrator.journal`.
        data: JSON values.
    """

    seq: int
    kind: str
    data: dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as the store knows it.

    Attributes:
        id: Unique; sorts by creation time.
        spec: What was asked for (JSON values; see `orchestrator.job.JobSpec`).
        state: Where it is.
        created_at: Seconds since the epoch.
        updated_at: Of the last change.
        epoch: How many times it has been claimed; a writer must know the current one.
        owner: Who claimed it last.
        result: Outcome of a finished job (JSON values).
    """

    id: str
    spec: dict[str, Any] = field(default_factory=dict)  # Any: JSON values
    state: JobState = JobState.QUEUED
    created_at: float = 0.0
    updated_at: float = 0.0
    epoch: int = 0
    owner: str | None = None
    result: dict[str, Any] | None = None  # Any: JSON values


class Jobs(Protocol):
    """The records of jobs."""

    async def create(self, record: JobRecord) -> None:
        """Adds a job.

        Raises:
            JobConflict: The id is taken.
            StoreFailed: It could not be written.
        """
        ...

    async def get(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            UnknownName: There is no such job (kind ``"job"``).
        """
        ...

    async def list_jobs(
        self, *, state: JobState | None = None, limit: int = 50, before: str | None = None
    ) -> list[JobRecord]:
        """Jobs, newest first; ``before`` is the id of the last one of the previous page."""
        ...

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job for ``owner`` until ``lease_s`` seconds after its last append; returns the new epoch.

        An owner is written ``host:pid:nonce``; a lease whose process on this host is dead counts as expired.

        Raises:
            JobConflict: It is finished, or another live owner holds it (``force`` takes it all the same).
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Removes a job and its journal; unknown ids are ignored."""
        ...


class Journals(Protocol):
    """The journals of jobs."""

    @property
    def is_durable(self) -> bool:
        """Whether rows outlive the process; where they do not, nobody can resume, and progress marks are left out."""
        ...

    async def append(
        self,
        job_id: str,
        epoch: int,
        rows: Sequence[JournalRow],
        *,
        state: JobState | None = None,
        result: dict[str, Any] | None = None,  # Any: JSON values
    ) -> None:
        """Adds rows and changes the job's state, all or nothing, and renews the lease; durable when it returns.

        Raises:
            LeaseLost: ``epoch`` is not current, or ``rows[0].seq`` is not the next position.
            StoreFailed: It could not be written; nothing was.
        """
        ...

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``, in order."""
        ...


class Store(Jobs, Journals, Protocol):
    """Both, and an end."""

    async def aclose(self) -> None:
        """Flushes and closes; safe to call twice."""
        ...

    def check_integrity(self) -> None:
        """Raises AssertionError if a journal has gaps or a record contradicts it."""
        ...
