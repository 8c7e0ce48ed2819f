"""``/v1/batches``: many jobs under one shared budget."""

from __future__ import annotations

from fastapi import APIRouter, Response

from orchestrator.api.service.batching import Batches, BatchState
from orchestrator.api.service.callers import Caller
from orchestrator.api.service.dependencies import ServiceOf
from orchestrator.api.service.fields import BatchId, IdempotencyKey, errors
from orchestrator.api.service.requests import BatchRequest, BatchView, JobView
from orchestrator.api.service.strict_json import StrictRoute

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=StrictRoute)


@router.post("", status_code=202, responses=errors(402, 404, 409, 422, 501, has_body=True))
async def create_batch(
    who: Caller,
    service: ServiceOf,
    request: BatchRequest,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> BatchView:
    """Queues many jobs: all of them, or none if one cannot be. A shared budget is split evenly."""
    batches = Batches(service)
    batch = await batches.create(who, request, idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/batches/{batch.id}"
    return _view(await batches.state(who, batch.id))


@router.get("/{batch_id}", responses=errors(404))
async def get_batch(who: Caller, service: ServiceOf, batch_id: BatchId) -> BatchView:
    """A batch with the results that there are by now."""
    return _view(await Batches(service).state(who, batch_id))


@router.delete("/{batch_id}", responses=errors(404))
async def cancel_batch(who: Caller, service: ServiceOf, batch_id: BatchId) -> BatchView:
    """Cancels all jobs of the batch that have not ended."""
    return _view(await Batches(service).cancel(who, batch_id))


def _view(state: BatchState) -> BatchView:
    return BatchView(
        id=state.batch.id,
        created_at=state.batch.created_at,
        num_jobs=state.batch.num_jobs,
        counts=state.counts,
        is_finished=state.is_finished,
        usage=state.usage.to_json(),
        jobs=[JobView.of(record) for record in state.records],
    )
