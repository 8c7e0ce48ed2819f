"""Whether the cluster is still the one that was joined: a new one may answer at the same address, where all that is
known here means nothing, and calls would wait for replicas that nobody will name.
"""

from __future__ import annotations

import asyncio
import logging

from orchestrator.workers.ray.cluster import cluster_identity

_LOG = logging.getLogger(__name__)

_MOST_FAILURES = 3
_SILENT_S = 60.0
"""As long as Ray itself waits for a control store. It waits longer for one that answers, but is another cluster's."""


class Watch:
    """Looks for the cluster that was there at the start.

    Args:
        identity: Of that one; see `cluster_identity`.
    """

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._asking: asyncio.Task[str] | None = None
        self._asked_at = 0.0
        self._num_failures = 0

    async def is_gone(self, *, within_s: float) -> bool:
        """Whether another cluster answers, or none has answered for a minute."""
        now = asyncio.get_running_loop().time()
        if self._asking is None:
            self._asked_at = now
            # It may outlive this call: a question to a control store that is away keeps its thread, so there is one.
            self._asking = asyncio.create_task(cluster_identity())
        await asyncio.wait({self._asking}, timeout=within_s)
        if not self._asking.done():
            return now - self._asked_at > _SILENT_S
        asking, self._asking = self._asking, None
        try:
            found = asking.result()
        except Exception as error:  # noqa: BLE001  # whatever Ray raises, it is counted
            self._num_failures += 1
            _LOG.warning("the cluster does not say who it is: %s", error)
            return self._num_failures >= _MOST_FAILURES
        self._num_failures = 0
        return found != self._identity

    def close(self) -> None:
        """Nobody wants to know any more."""
        if self._asking is not None:
            self._asking.cancel()
