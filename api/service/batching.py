"""Batches: many jobs under one shared budget, which is split evenly; queued together, looked at and ended together."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.api.service.requests import BatchRequest, BudgetBody, JobRequest, budget_of
from orchestrator.api.service.retention import BATCHES
from orchestrator.api.service.security.principal import Principal
from orchestrator.api.service.service import Service
from orchestrator.budget import UNLIMITED, Budget
from orchestrator.errors import InvalidRequest, JobConflict, ServiceStopping, StoreFailed, TtcError, UnknownName
from orchestrator.store import JobRecord, JobState
from orchestrator.stores import new_job_id
from orchestrator.usage import Usage

_ID_CHARS = 20
_PAGE = 200
_END_S = 5.0
"""A job that was told to end is waited for so long."""
_SPLIT = ("max_output_tokens", "max_total_tokens", "max_model_calls", "max_tool_calls", "max_usd", "max_flops")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is stored.

    Attributes:
        id: Its id, which its jobs carry.
        tenant: Whose it is.
        created_at: Seconds since the epoch.
        num_jobs: How many jobs were asked for.
        job_ids: Those that were created, in the order of the request; fewer while the batch is being created.
        request_digest: To know the request again when it is sent twice.
    """

    id: str
    tenant: str
    created_at: float
    num_jobs: int
    job_ids: tuple[str, ...] = ()
    request_digest: str = ""

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """JSON values."""
        return {
            "tenant": self.tenant,
            "created_at": self.created_at,
            "num_jobs": self.num_jobs,
            "job_ids": list(self.job_ids),
            "request_digest": self.request_digest,
        }


class BatchState(NamedTuple):
    """How far a batch is.

    Attributes:
        batch: The batch.
        records: Its jobs, in the order of the request.
        counts: How many jobs are in each state that has any.
        usage: Of the jobs that have ended.
    """

    batch: Batch
    records: list[JobRecord]
    counts: dict[JobState, int]
    usage: Usage

    @property
    def is_finished(self) -> bool:
        """Whether all jobs have ended."""
        return len(self.records) == self.batch.num_jobs and all(state.is_terminal for state in self.counts)


class Batches:
    """Batches over a service.

    Args:
        service: Takes the jobs.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, who: Principal, request: BatchRequest, *, idempotency_key: str | None) -> Batch:
        """Queues the jobs of a batch. If one of them cannot be queued, those before it are cancelled.

        A request that is sent again with its key goes on where it was left; so where the store has failed, or the
        process is being stopped, a batch with a key is left as it is.

        Raises:
            As `Service.submit` does, naming the job; `JobConflict` if the key was sent with another request before.
        """
        jobs = split(request, most=self._service.settings.max_batch)
        digest = hashlib.sha256(request.model_dump_json(exclude_unset=True).encode()).hexdigest()
        batch = await self._known(who, len(jobs), digest, idempotency_key)
        if len(batch.job_ids) == batch.num_jobs:
            return batch
        await self._service.check_room(who, len(jobs))
        await self._write(batch)
        ids: list[str] = []
        try:
            for index, job in enumerate(jobs):
                record = await self._service.submit(who, job, idempotency_key=f"{batch.id}/{index}", batch=batch.id)
                ids.append(record.id)
        except TtcError as error:
            if idempotency_key is None or not isinstance(error, StoreFailed | ServiceStopping):
                await self._undo(who, batch, ids)
            if isinstance(error, InvalidRequest):
                raise InvalidRequest(f"requests.{len(ids)}: {error.message}", field=f"requests.{len(ids)}") from None
            raise
        return await self._write(Batch(batch.id, who.tenant, batch.created_at, len(jobs), tuple(ids), digest))

    async def state(self, who: Principal, batch_id: str) -> BatchState:
        """How far a batch is.

        Raises:
            UnknownName: The caller has no such batch.
        """
        batch = await self._get(who, batch_id)
        found: dict[str, JobRecord] = {}
        before: str | None = None
        while page := await self._service.jobs(who, batch=batch_id, limit=_PAGE, before=before):
            found |= {record.id: record for record in page}
            before = page[-1].id
        order = {job_id: place for place, job_id in enumerate(batch.job_ids)}
        records = sorted(found.values(), key=lambda record: (order.get(record.id, len(order)), record.id))
        counts: dict[JobState, int] = {}
        usage = Usage()
        for record in records:
            counts[record.state] = counts.get(record.state, 0) + 1
            if record.state.is_terminal and record.result is not None:
                usage += Usage.from_json(record.result["usage"])
        return BatchState(batch, records, counts, usage)

    async def cancel(self, who: Principal, batch_id: str) -> BatchState:
        """Cancels all jobs of a batch that have not ended.

        Raises:
            UnknownName: The caller has no such batch.
        """
        state = await self.state(who, batch_id)
        for record in state.records:
            if not record.state.is_terminal:
                await self._service.cancel(who, record.id)
        return await self.state(who, batch_id)

    async def _known(self, who: Principal, num_jobs: int, digest: str, idempotency_key: str | None) -> Batch:
        """The batch that was begun with this key, else a new one that is not stored yet."""
        batch_id = new_job_id()
        if idempotency_key is not None:
            batch_id = _id_of(f"{who.tenant}\n{idempotency_key}")
            value = await self._service.orchestrator.store.get_document(BATCHES, batch_id)
            if value is not None:
                return _same(_batch(batch_id, value), digest, idempotency_key)
        return Batch(batch_id, who.tenant, time.time(), num_jobs, (), digest)

    async def _write(self, batch: Batch) -> Batch:
        await self._service.orchestrator.store.put_document(BATCHES, batch.id, batch.to_json())
        return batch

    async def _undo(self, who: Principal, batch: Batch, ids: list[str]) -> None:
        """A batch is taken as a whole or not at all."""
        for job_id in ids:
            await self._service.cancel(who, job_id)
            if (await self._service.wait(who, job_id, timeout_s=_END_S)).state.is_terminal:
                await self._service.orchestrator.store.delete(job_id)
        await self._service.orchestrator.store.put_document(BATCHES, batch.id, None)

    async def _get(self, who: Principal, batch_id: str) -> Batch:
        value = await self._service.orchestrator.store.get_document(BATCHES, batch_id)
        if value is None or value["tenant"] != who.tenant:
            raise UnknownName(kind="batch", name=batch_id, known=())
        return _batch(batch_id, value)


def split(request: BatchRequest, *, most: int) -> list[JobRequest]:
    """The jobs of a batch, each with its part of the shared budget.

    Raises:
        InvalidRequest: There are more than ``most``, one has a budget of its own, or the budget cannot be split.
    """
    jobs = request.requests
    if len(jobs) > most:
        raise InvalidRequest(f"a batch has at most {most} jobs, not {len(jobs)}", field="requests", value=len(jobs))
    if request.budget is None:
        return list(jobs)
    for index, job in enumerate(jobs):
        if job.budget is not None:
            raise InvalidRequest(
                "jobs of a batch with a shared budget have none of their own", field=f"requests.{index}.budget"
            )
    share = _share(budget_of(request.budget), len(jobs))
    part = BudgetBody(**share.to_json()) if share != UNLIMITED else None
    return [job.model_copy(update={"budget": part}) for job in jobs]


def _share(budget: Budget, num_jobs: int) -> Budget:
    values = budget.to_json()
    for name in _SPLIT:
        if name in values:
            whole = isinstance(values[name], int) and name not in {"max_usd", "max_flops"}
            values[name] = values[name] // num_jobs if whole else values[name] / num_jobs
            if values[name] == 0 and name != "max_tool_calls":
                raise InvalidRequest(
                    f"{name}={getattr(budget, name)} is not enough for {num_jobs} jobs", field=f"budget.{name}"
                )
    return Budget.from_json(values)


def _batch(batch_id: str, value: dict[str, Any]) -> Batch:  # Any: JSON values
    return Batch(batch_id, **{**value, "job_ids": tuple(value["job_ids"])})


def _same(batch: Batch, digest: str, idempotency_key: str) -> Batch:
    if batch.request_digest != digest:
        raise JobConflict(
            f"the idempotency key {idempotency_key!r} was sent with another request before, which became batch "
            f"{batch.id!r}; send a new key with a new request",
            job_id=batch.id,
        )
    return batch


def _id_of(text: str) -> str:
    """An id in the letters of job ids that always is the same for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_CHARS]
