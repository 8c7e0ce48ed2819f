"""Journal rows and records as JSON text, and the checks every store makes before it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.errors import JobConflict, LeaseLost, UnknownName
from orchestrator.store import JobRecord, JobState, JournalRow


def encoded(value: Any) -> str:  # Any: JSON values
    """JSON text.

    Raises:
        TypeError: The value is not made of JSON values; it is the caller's mistake and nothing is written.
    """
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def encoded_rows(rows: Sequence[JournalRow]) -> list[tuple[int, str, str]]:
    """(seq, kind, data) of each row.

    Raises:
        ValueError: Their positions do not follow each other.
    """
    for place, row in enumerate(rows):
        if row.seq != rows[0].seq + place:
            raise ValueError(f"row {row.seq} cannot follow row {rows[place - 1].seq}: positions have no gaps")
    return [(row.seq, row.kind, encoded(row.data)) for row in rows]


def decoded_row(seq: int, kind: str, data: str) -> JournalRow:
    """The inverse of `encoded_rows`, for one."""
    return JournalRow(seq, kind, json.loads(data))


def unknown_job(job_id: str, latest: Sequence[str]) -> UnknownName:
    """No such job; names the latest ones."""
    return UnknownName(kind="job", name=job_id, known=latest, hint="these are the latest ones" if latest else "")


def job_exists(job_id: str) -> JobConflict:
    """The id is taken."""
    return JobConflict(f"there is already a job {job_id!r}", job_id=job_id)


def key_exists(job_id: str, record: JobRecord) -> JobConflict:
    """Its tenant has a job with this idempotency key."""
    return JobConflict(f"job {job_id!r} was already made with key {record.idempotency_key!r}", job_id=job_id)


def started(record: JobRecord) -> JobRecord:
    """A new job that its owner holds from the start.

    Raises:
        ValueError: It has no owner.
    """
    if record.owner is None:
        raise ValueError(f"job {record.id!r} cannot be created with a lease but without an owner")
    return replace(record, state=JobState.RUNNING, epoch=1)


def place_in_queue(record: JobRecord) -> tuple[float, ...]:
    """What queued jobs are sorted by, and then by id: lower goes first."""
    return (-record.priority, math.inf if record.due_at is None else record.due_at)


def lease_lost(job_id: str, *, epoch: int, current_epoch: int | None, seq: int | None, next_seq: int) -> LeaseLost:
    """Why an append was refused."""
    if current_epoch is None:
        return LeaseLost(f"job {job_id!r} does not exist any more", job_id=job_id, epoch=epoch)
    if current_epoch == 0:
        return LeaseLost(f"job {job_id!r} has not been claimed; claim it before writing", job_id=job_id, epoch=epoch)
    if current_epoch != epoch:
        message = (
            f"job {job_id!r} was taken over: this controller has epoch {epoch}, the current one is {current_epoch}"
        )
        return LeaseLost(message, job_id=job_id, epoch=epoch, current_epoch=current_epoch)
    message = f"job {job_id!r}: the next row is {next_seq}, not {seq}; someone else wrote with the same epoch"
    return LeaseLost(message, job_id=job_id, epoch=epoch, seq=seq, next_seq=next_seq)
