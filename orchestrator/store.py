"""Where jobs and their journals are kept: the records and the protocol; implementations are in `orchestrator.stores`.

A store loses nothing it has acknowledged, and lets only the controller that holds a job's lease write to its journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from orchestrator.budget import Amount

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
        tenant: Whose it is; others do not see it. Empty where there is only one.
        key_id: The API key that pays for it; empty for none.
        priority: Higher ones are taken first.
        due_at: By when its answer is wanted, seconds since the epoch; among jobs of one priority the earliest is
            taken first, those without one last and oldest first.
        batch: The batch it belongs to.
        idempotency_key: Unique for its tenant; what a caller sends twice becomes one job.
        is_cancel_wanted: Somebody has asked for its end.
    """

    id: str
    spec: dict[str, Any] = field(default_factory=dict)  # Any: JSON values
    state: JobState = JobState.QUEUED
    created_at: float = 0.0
    updated_at: float = 0.0
    epoch: int = 0
    owner: str | None = None
    result: dict[str, Any] | None = None  # Any: JSON values
    tenant: str = ""
    key_id: str = ""
    priority: int = 0
    due_at: float | None = None
    batch: str | None = None
    idempotency_key: str | None = None
    is_cancel_wanted: bool = False


@dataclass(frozen=True, slots=True)
class Payment:
    """What is to be set aside for a job when it is created; see `Accounts.set_aside`.

    Attributes:
        account: Who pays.
        amount: How much; fields that are 0 are not counted.
        caps: By period, the most that may be spent and set aside in it.
    """

    account: str
    amount: Amount
    caps: Mapping[str, Amount | None]

    @property
    def is_capped(self) -> bool:
        """Whether it may not fit; otherwise it is only counted."""
        return any(cap is not None for cap in self.caps.values())


class Change(NamedTuple):
    """What an append writes; see `Journals.append`."""

    rows: Sequence[JournalRow] = ()
    state: JobState | None = None
    result: dict[str, Any] | None = None  # Any: JSON values


class Jobs(Protocol):
    """The records of jobs."""

    async def create(
        self,
        record: JobRecord,
        *,
        lease_s: float | None = None,
        payment: Payment | None = None,
        first: Change | None = None,
    ) -> None:
        """Adds a job and sets aside what it may cost: all or nothing, in this order of checks.

        Args:
            record: The job.
            lease_s: With it the job is never queued: ``record.owner`` holds it from the start, running, in epoch 1, as
                after `claim`.
            payment: What to set aside for it.
            first: Appended at once by its owner. Where a store makes that a second step and is stopped between the two,
                the job is there and its lease runs out.

        Raises:
            JobConflict: The id is taken, or its tenant has a job with this idempotency key; the field ``job_id`` of
                the error names that job.
            BudgetExhausted: The payment does not fit.
            StoreFailed: It could not be written.
        """
        ...

    async def find(self, *, tenant: str, idempotency_key: str) -> JobRecord | None:
        """The job that a tenant has created with this key; None if there is none."""
        ...

    async def get(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            UnknownName: There is no such job (kind ``"job"``).
        """
        ...

    async def list_jobs(
        self,
        *,
        state: JobState | None = None,
        tenant: str | None = None,
        batch: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[JobRecord]:
        """Jobs, newest first; ``before`` is the id of the last one of the previous page. None: whatever it is."""
        ...

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job for ``owner`` until ``lease_s`` seconds after its last append; returns the new epoch.

        An owner is written ``host:pid:nonce``; a lease whose process on this host is dead counts as expired.

        Raises:
            JobConflict: It is finished, or another live owner holds it (``force`` takes it all the same).
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Removes a job and its journal, and releases what is set aside for it; unknown ids are ignored."""
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

        An end settles the job's account to what the ``usage`` of its result says, to nothing if it has no result.

        Raises:
            LeaseLost: ``epoch`` is not current, or ``rows[0].seq`` is not the next position.
            StoreFailed: It could not be written; nothing was.
        """
        ...

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``, in order."""
        ...


class Claimed(NamedTuple):
    """A job that was taken from the queue, and the epoch to write with."""

    record: JobRecord
    epoch: int


class Queue(Protocol):
    """Jobs that wait for a controller: those that are queued, and those whose controller lost its lease.

    Any number of processes take from it; each job is given to one at a time.
    """

    async def take(self, owner: str, *, lease_s: float, most_per_tenant: int | None = None) -> Claimed | None:
        """Claims the job that is next; None if there is none.

        Next is the highest priority, then the earliest ``due_at``, then the oldest (the least id). Jobs of a tenant of
        whom ``most_per_tenant`` jobs run now are passed over.
        """
        ...

    async def ask_to_cancel(self, job_id: str) -> JobRecord:
        """Marks an unfinished job, and returns it as it is then; a finished one stays as it is.

        Raises:
            UnknownName: There is no such job.
        """
        ...

    async def wanted_cancelled(self, owner: str) -> list[str]:
        """Jobs of this owner that run and are to be cancelled."""
        ...

    async def count_jobs(self, *, tenant: str | None = None) -> dict[JobState, int]:
        """How many jobs there are in each state that has any."""
        ...

    async def wait_for_work(self, *, timeout_s: float) -> None:
        """Returns when there may be something to take or to cancel, at the latest after ``timeout_s``.

        A change since this store's last wait is not missed, whoever made it. It may return early, too; and a lease
        that runs out wakes nobody, so callers look from time to time.
        """
        ...

    async def wait_for_news(self, job_id: str, *, after: int, timeout_s: float) -> None:
        """Returns when the job has a row above ``after`` or another state, at the latest after ``timeout_s``.

        At once if it has such a row already, has ended, or does not exist. It may return early; callers look for
        themselves.
        """
        ...


class Accounts(Protocol):
    """Books that all processes share: what a name (an API key, say) has set aside and spent, by period.

    A job is paid as a whole: its caps are set aside before it is accepted, and settled to what it cost when it has
    ended. An account is any text; a period is any text, too (``2026-11-21`` or ``total``).
    """

    async def set_aside(
        self, account: str, job_id: str, amount: Amount, *, caps: Mapping[str, Amount | None], partly: bool = False
    ) -> Amount:
        """Sets ``amount`` aside for a job in each period of ``caps``, all or nothing; what it had before is replaced.

        Args:
            account: Who pays.
            job_id: For what.
            amount: Fields that are 0 are not counted.
            caps: By period, the most that may be spent and set aside in it; a field of 0 caps nothing, None is for
                periods that are only counted.
            partly: Take what is left, field by field, where that is less; something must be left of each field.

        Returns:
            What was set aside.

        Raises:
            BudgetExhausted: It does not fit; names the cap as `Budget` does, and the period.
        """
        ...

    async def settle(self, job_id: str, actual: Amount) -> None:
        """Books what a job has cost in place of what was set aside for it; once, and nothing for unknown jobs."""
        ...

    async def spent(self, account: str, period: str) -> tuple[Amount, Amount]:
        """What is spent, and what is set aside besides."""
        ...

    async def admit(self, account: str, *, rate_per_s: float, burst: int) -> float:
        """Takes a token from the account's bucket; 0 if there was one, else seconds until there is."""
        ...


class Documents(Protocol):
    """Small records of other parts (API keys, batches) as JSON values."""

    async def put_document(self, kind: str, key: str, value: dict[str, Any] | None) -> None:  # Any: JSON values
        """Writes or, with None, removes one; durable when it returns."""
        ...

    async def get_document(self, kind: str, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """One, or None."""
        ...

    async def list_documents(
        self, kind: str, *, prefix: str = "", limit: int = 1000, before: str | None = None
    ) -> list[tuple[str, dict[str, Any]]]:  # Any: JSON values
        """Keys that begin with ``prefix`` with their values, last key first; ``before`` as in `Jobs.list_jobs`."""
        ...


class Store(Jobs, Journals, Queue, Accounts, Documents, Protocol):
    """All of them, and an end."""

    async def aclose(self) -> None:
        """Flushes and closes; safe to call twice."""
        ...

    def check_integrity(self) -> None:
        """Raises AssertionError if a journal has gaps or a record contradicts it."""
        ...
