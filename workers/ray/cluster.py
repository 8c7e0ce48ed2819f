"""This process's place in a Ray cluster: joined by the first engine that needs it, left by the last."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack
from typing import Any

from orchestrator.config import RaySettings
from orchestrator.errors import EngineFailed, InvalidRequest, ServiceFailed, UnknownName
from orchestrator.workers.ray.deployment import DEPLOYMENT, application_name, host_of
from orchestrator.workers.ray.joining import joined
from orchestrator.workers.ray.serve_module import imported_serve

_LOOK_AGAIN_S = 0.2


def address_of(settings: RaySettings) -> str:
    """Where the cluster is: as configured, else what ``RAY_ADDRESS`` says, else where this process is, else here."""
    if given := settings.address or os.environ.get("RAY_ADDRESS", ""):
        return given
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    return "auto"


class Membership:
    """A process is in one cluster at a time; Ray itself keeps that for the process, so this does, too."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # invariant: nobody joins or leaves while another does
        self._stack: ExitStack | None = None
        self._address = ""
        self._num_users = 0

    async def join(self, settings: RaySettings) -> None:
        """Joins, or notes another user.

        Raises:
            InvalidRequest: The process is in another cluster.
            MissingDependency, ServiceFailed: As `joined`.
        """
        address = address_of(settings)
        async with self._turn:
            if self._stack is not None and address != self._address:
                raise InvalidRequest(
                    f"this process is in the Ray cluster at {self._address} and cannot be in another at the same time",
                    field="ray.address",
                    value=address,
                )
            if self._stack is None:
                stack = ExitStack()
                await asyncio.to_thread(stack.enter_context, joined(address, namespace=settings.namespace))
                self._stack, self._address = stack, address
            self._num_users += 1

    async def leave(self) -> None:
        """The last one that leaves leaves for the process."""
        async with self._turn:
            self._num_users -= 1
            if self._num_users == 0 and self._stack is not None:
                stack, self._stack = self._stack, None
                await asyncio.to_thread(stack.close)


MEMBERSHIP = Membership()
"""Of this process."""


async def cluster_identity() -> str:
    """Names the cluster, as its control store says at this moment: another one, or the same started anew, has another.

    Raises:
        Exception: What Ray raises when it cannot be asked.
    """
    return await asyncio.to_thread(_cluster_identity)


def _cluster_identity() -> str:
    from ray._private.ray_constants import KV_NAMESPACE_SESSION
    from ray.experimental.internal_kv import _internal_kv_get

    name: bytes | None = _internal_kv_get(b"session_name", namespace=KV_NAMESPACE_SESSION)  # actors would be remembered
    return (name or b"").decode()


async def handle_of(name: str, settings: RaySettings) -> tuple[Any, str]:  # Any: Serve's DeploymentHandle
    """The handle for a model, or for the one it is placed with, and the application.

    Raises:
        UnknownName: No such model runs on the cluster.
        ServiceFailed: No fleet runs there.
        EngineFailed: It is not deployed in time.
    """
    deadline = asyncio.get_running_loop().time() + settings.open_s
    while True:
        try:
            return await asyncio.to_thread(_handle_of, name, settings.namespace)
        except KeyError:  # Serve knows the application, and has not made its deployment yet
            if asyncio.get_running_loop().time() > deadline:
                raise EngineFailed(f"model {name!r} is not deployed; see: ttc fleet status", model=name) from None
        await asyncio.sleep(_LOOK_AGAIN_S)


def _handle_of(name: str, namespace: str) -> tuple[Any, str]:  # Any: as above
    serve = imported_serve()
    from ray.serve.exceptions import RayServeException

    beginning = application_name("", namespace=namespace)
    try:
        names = {app.removeprefix(beginning) for app in serve.status().applications if app.startswith(beginning)}
    except RayServeException:
        names = set()
    if not names:
        raise ServiceFailed(
            f"no fleet runs in the cluster's namespace {namespace!r}; start it: ttc fleet up", status=None
        )
    host = name if name in names else _host_of(name, namespace)
    if host not in names:
        raise UnknownName(kind="model", name=name, known=names, hint="see: ttc fleet status")
    application = application_name(host, namespace=namespace)
    return serve.get_deployment_handle(DEPLOYMENT, application), application


def _host_of(name: str, namespace: str) -> str:
    """The model that another one is placed with, as the fleet was deployed."""
    from orchestrator.workers.ray.fleet import DeployedFleet

    fleet = DeployedFleet(namespace).deployed()
    return name if fleet is None or name not in fleet.models else host_of(fleet, name)
