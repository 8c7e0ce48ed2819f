"""``/v1/jobs``: jobs are sent in, looked at, answered and cancelled."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from orchestrator.api.service.callers import Caller
from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.fields import (
    BatchFilter,
    Cursor,
    IdempotencyKey,
    JobId,
    Limit,
    WaitS,
    cursor_of,
    errors,
    id_of,
)
from orchestrator.api.service.requests import InputBody, JobPage, JobRequest, JobView, TreeView, UsageView
from orchestrator.api.service.strict_json import StrictRoute
from orchestrator.api.story import JobStory
from orchestrator.store import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)

_State = Annotated[JobState | None, Query(description="Only jobs in this state")]


@router.post("", status_code=202, responses={200: {"model": JobView}, **errors(402, 404, 409, 422, 501, has_body=True)})
async def create_job(
    *,
    who: Caller,
    service: ServiceOf,
    request: JobRequest,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    wait: WaitS = 0.0,
) -> JobView:
    """Queues a job. With `wait` the response comes when the job has ended, at the latest after so many seconds."""
    record = await service.submit(who, request, idempotency_key=idempotency_key)
    if wait:
        record = await service.wait(who, record.id, timeout_s=wait)
    response.status_code = 200 if record.state.is_terminal else 202
    response.headers["Location"] = f"/v1/jobs/{record.id}"
    return JobView.of(record)


@router.get("", responses=errors())
async def list_jobs(
    *,
    who: Caller,
    service: ServiceOf,
    state: _State = None,
    batch: BatchFilter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobPage:
    """Your jobs, newest first."""
    records = await service.jobs(who, state=state, batch=batch, limit=limit + 1, before=id_of(cursor))
    page = records[:limit]
    return JobPage(
        data=[JobView.of(record) for record in page],
        next_cursor=cursor_of(page[-1].id) if len(records) > limit else None,
    )


@router.get("/{job_id}", responses=errors(404))
async def get_job(who: Caller, service: ServiceOf, job_id: JobId, wait: WaitS = 0.0) -> JobView:
    """One job. With `wait` the response comes when the job has ended or waits for a person."""
    return JobView.of(await service.wait(who, job_id, timeout_s=wait))


@router.delete("/{job_id}", responses=errors(404))
async def cancel_job(who: Caller, service: ServiceOf, job_id: JobId, wait: WaitS = 0.0) -> JobView:
    """Cancels a job: it ends with its best answer so far. A job that has ended stays as it is."""
    record = await service.cancel(who, job_id)
    return JobView.of(await service.wait(who, job_id, timeout_s=wait) if wait else record)


@router.post("/{job_id}/input", status_code=202, responses=errors(404, 409, has_body=True))
async def reply_to_job(who: Caller, service: ServiceOf, job_id: JobId, body: InputBody) -> JobView:
    """Answers a job that waits for a person; it goes on."""
    return JobView.of(await service.reply(who, job_id, body.text))


@router.get("/{job_id}/tree", responses=errors(404))
async def get_tree(who: Caller, service: ServiceOf, job_id: JobId) -> TreeView:
    """Everything the job has bought: texts with their scores, the votes, the actions."""
    record = await service.record(who, job_id)
    story: dict[str, Any] = JobStory(record, await service.orchestrator.store.read(job_id)).to_json()  # JSON values
    return TreeView(**{name: story[name] for name in TreeView.model_fields})


@router.get("/{job_id}/usage", responses=errors(404))
async def get_usage(who: Caller, service: ServiceOf, job_id: JobId) -> UsageView:
    """What the job has cost so far, against its caps."""
    record = await service.record(who, job_id)
    story = JobStory(record, await service.orchestrator.store.read(job_id))
    usage = story.usage
    return UsageView(
        id=record.id,
        state=record.state,
        usage=usage.to_json(),
        total_tokens=usage.total_tokens,
        usd=usage.usd,
        budget=record.spec["budget"],
    )
