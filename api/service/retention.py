"""Forgets jobs that ended long ago, where the settings say so."""

from __future__ import annotations

import asyncio
import logging
import time

from orchestrator.errors import TtcError
from orchestrator.store import Store
from orchestrator.stores import new_job_id

_LOG = logging.getLogger(__name__)

BATCHES = "batch"
"""Kind of the documents that hold batches."""
_EVERY_S = 600.0
_PAGE = 200


async def keep_forgetting(store: Store, *, keep_s: float) -> None:
    """Forgets old jobs now and then, until it is cancelled."""
    while True:
        try:
            num_forgotten = await forget(store, older_than=time.time() - keep_s)
        except TtcError as error:
            _LOG.warning("old jobs could not be forgotten", extra={"reason": str(error)})
        else:
            if num_forgotten:
                _LOG.info("old jobs are forgotten", extra={"num_jobs": num_forgotten})
        await asyncio.sleep(_EVERY_S)


async def forget(store: Store, *, older_than: float) -> int:
    """Deletes jobs that have ended and were not changed since ``older_than`` (seconds since the epoch).

    Returns:
        How many.
    """
    num_forgotten = 0
    before: str | None = new_job_id(now=older_than)  # ids sort by the time at which jobs were created
    while page := await store.list_jobs(before=before, limit=_PAGE):
        before = page[-1].id
        for record in page:
            if record.state.is_terminal and record.updated_at < older_than:
                await store.delete(record.id)
                num_forgotten += 1
    await _forget_batches(store, older_than=older_than)
    return num_forgotten


async def _forget_batches(store: Store, *, older_than: float) -> None:
    """Deletes what is kept of old batches none of whose jobs are left."""
    before: str | None = None
    while page := await store.list_documents(BATCHES, before=before, limit=_PAGE):
        before = page[-1][0]
        for batch_id, batch in page:
            if batch["created_at"] < older_than and not await store.list_jobs(batch=batch_id, limit=1):
                await store.put_document(BATCHES, batch_id, None)
