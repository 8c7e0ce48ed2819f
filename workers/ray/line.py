"""A caller's line to one replica, beside Serve: what belongs to streams under way, and calls that block.

It does not wait for its turn behind other calls, and costs a fraction of a millisecond. Serve knows nothing of it; it
is an ordinary call of the replica's actor, so it is as safe as any of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError
    from ray.serve.request_router import ReplicaID

from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed
from orchestrator.workers.ray.deployment import DEPLOYMENT
from orchestrator.workers.ray.replica import attend
from orchestrator.workers.ray.values import answer

_LOG = logging.getLogger(__name__)

_SERVE_NAMESPACE = "serve"
_HEALTH = tuple(field.name for field in fields(EngineHealth))
VOCABULARY_S = 1.0
"""A call about the vocabulary blocks the event loop no longer."""


class Line:
    """To one replica.

    Args:
        replica: Its id.
        actor: Its actor.
        model: Which of its engines.
    """

    def __init__(self, replica: str, actor: Any, *, model: str) -> None:  # Any: Ray's actor handle
        self.replica = replica
        self._actor = actor
        self._model = model
        self._call = actor.__ray_call__
        self._tell = actor.__ray_call__.options(num_returns=0)

    def taken(self, key: str, num_events: int) -> None:
        """The reader of a stream has taken so many events."""
        self._say("taken", key, num_events)

    def cancel(self, key: str) -> None:
        """The stream is to end, with exact counts."""
        self._say("cancel", key)

    async def alive(self, caller: str, keys: list[str]) -> None:
        """These streams are read, and no others.

        Raises:
            RayError: The replica is gone, or cannot be reached.
        """
        await self._call.remote(attend, "alive", caller, keys)

    async def health(self) -> EngineHealth | None:
        """The engine's counters; None if they do not come.

        Raises:
            RayError: The replica is gone, or cannot be reached.
        """
        told = await self._actor.record_routing_stats.remote()
        counters = ((told or {}).get("engines") or {}).get(self._model)
        return None if counters is None else EngineHealth(**{name: counters[name] for name in _HEALTH})

    async def process_id(self) -> int:
        """The replica's process.

        Raises:
            RayError: The replica is gone, is starting, or cannot be reached.
        """
        return int(await self._call.remote(attend, "process"))

    def vocabulary(self, name: str, argument: object) -> Any:  # Any: what the method returns
        """Calls a method about the vocabulary, and blocks until it has answered.

        Raises:
            TimeoutError: It takes too long.
            RayError: The replica is gone, or cannot be reached.
            TtcError: What the method raised.
        """
        coming = self._call.remote(attend, "vocabulary", self._model, name, argument)
        try:
            return answer(ray.get(coming, timeout=VOCABULARY_S))
        except GetTimeoutError:
            raise TimeoutError from None

    def _say(self, operation: str, *arguments: object) -> None:
        try:
            self._tell.remote(attend, operation, *arguments)
        except RayError as error:  # its streams end with the same error, and that one is told
            _LOG.debug("a replica could not be told: %s", error, extra={"model": self._model})


class Lines:
    """To all replicas of a model that have answered.

    Args:
        application: The Serve application.
        model: Which engine of its replicas.
    """

    def __init__(self, application: str, *, model: str) -> None:
        self._application = application
        self._model = model
        self._lines: dict[str, Line] = {}
        self._coming: dict[str, asyncio.Lock] = {}  # invariant: one look-up of a replica at a time
        self._slow: str = ""

    def known(self, replica: str) -> Line | None:
        """The line to a replica, if there is one."""
        return self._lines.get(replica)

    async def to(self, replica: str) -> Line:
        """The line to a replica.

        Raises:
            EngineFailed: It is gone.
        """
        line = self._lines.get(replica)
        if line is not None:
            return line
        name = _actor_name(self._application, replica)
        try:
            actor = await asyncio.to_thread(ray.get_actor, name, namespace=_SERVE_NAMESPACE)
        except ValueError:
            raise EngineFailed(f"a replica of model {self._model!r} has died", model=self._model) from None
        return self._lines.setdefault(replica, Line(replica, actor, model=self._model))

    def drop(self, replica: str) -> None:
        """A replica is gone."""
        self._lines.pop(replica, None)

    async def present(self) -> list[Line]:
        """Lines to all replicas that there are, those that are just starting among them."""
        names = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        replicas = _replicas(names, self._application)
        for gone in self._lines.keys() - replicas:
            self.drop(gone)
        found = []
        for replica in sorted(replicas):
            try:
                found.append(await self.to(replica))
            except EngineFailed:
                continue
        return found

    def vocabulary(self, name: str, argument: object) -> Any:  # Any: what the method returns
        """Asks any replica about the vocabulary; one that was too slow is not asked until it has answered otherwise.

        Raises:
            EngineFailed: Nobody answers.
            TtcError: What the method raised.
        """
        for line in [line for replica, line in self._lines.items() if replica != self._slow]:
            try:
                return line.vocabulary(name, argument)
            except TimeoutError:
                self._slow = line.replica
                break
            except RayActorError:
                self.drop(line.replica)
            except RayError as error:
                _LOG.warning("a replica cannot be asked: %s", error, extra={"model": self._model})
                break
        raise EngineFailed(f"no replica of model {self._model!r} answers at once", model=self._model)

    def trust(self, replica: str) -> None:
        """A replica has answered."""
        if replica == self._slow:
            self._slow = ""


def _actor_name(application: str, replica: str) -> str:
    from ray.serve._private.common import DeploymentID

    return str(ReplicaID(replica, DeploymentID(DEPLOYMENT, application)).to_full_id_str())


def _replicas(actors: list[Mapping[str, str]], application: str) -> set[str]:
    beginning = _actor_name(application, "")
    return {
        actor["name"].removeprefix(beginning)
        for actor in actors
        if actor["namespace"] == _SERVE_NAMESPACE and actor["name"].startswith(beginning)
    }
