"""This process joins a Ray cluster for a while, and sees which nodes it has; whatever fails is one sentence."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import InvalidRequest, ServiceFailed
from orchestrator.local_cluster import read_local
from orchestrator.workers.ray.local import is_reachable, require_ray, token_variables

_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node, as the cluster tells of it.

    Attributes:
        name: For people.
        cpus, gpus: All of them, in use or not.
        memory_gib: Main memory that Ray counts with.
        kind: Type of its accelerators; None if it has none, or does not say.
    """

    name: str
    cpus: float
    gpus: float = 0.0
    memory_gib: float | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """A cluster.

    Attributes:
        address: Where it was joined.
        ray_version: Of the nodes.
        nodes: Those that are alive.
    """

    address: str
    ray_version: str
    nodes: tuple[NodeView, ...] = field(default_factory=tuple)


@contextmanager
def joined(address: str, *, namespace: str) -> Iterator[None]:
    """Joins a cluster, and leaves it unless this process had joined it before.

    Args:
        address: ``auto`` or ``HOST:PORT``.
        namespace: For names of actors.

    Raises:
        MissingDependency: Ray is not installed.
        ServiceFailed: The cluster cannot be reached.
        InvalidRequest: It runs another version, or this machine is no node of it.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What is left of Serve in this process when it has left the cluster must not join whatever other one it finds.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if address != "auto" and not is_reachable(address):
        raise ServiceFailed(
            f"no Ray answers at {address}; start it there (ray start --head, or ttc fleet up for a local one), or name "
            "another in cluster.ray",
            status=None,
        )
    noted = read_local(namespace)
    is_local = noted is not None and noted.address == address
    here: dict[str, Any] = {"_node_ip_address": address.rpartition(":")[0]} if is_local else {}  # Any: a private option
    with _token(noted.token_file if noted is not None and is_local else None):
        try:
            ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise _refused(error, address) from None
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _token(file: str | None) -> Iterator[None]:
    """Shows the token of a local Ray meanwhile; Ray takes it from the environment only."""
    if file is None:
        yield
        return
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # a compiled module

    before = {name: os.environ.get(name) for name in (*token_variables(file), "RAY_AUTH_TOKEN")}
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would go before the file
    os.environ.update(token_variables(file))
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def view(address: str) -> ClusterView:
    """The cluster that this process has joined."""
    import ray

    told: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Any: what Ray tells
    nodes = [_node(node) for node in told if node["Alive"]]
    return ClusterView(address=address, ray_version=ray.__version__, nodes=tuple(nodes))


def _node(told: Mapping[str, Any]) -> NodeView:  # Any: what Ray tells of nodes
    resources: Mapping[str, float] = told["Resources"]
    kinds = [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]
    memory = resources.get("memory")
    return NodeView(
        name=str(told.get("NodeManagerHostname") or told["NodeID"]),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_gib=None if memory is None else memory / 2**30,
        kind=kinds[0] if kinds else None,
    )


def _refused(error: Exception, address: str) -> InvalidRequest | ServiceFailed:
    text = str(error)
    if "ersion mismatch" in text:
        versions = re.findall(r"(Ray|Python): *([0-9][\w.]*)", text)
        shown = ", ".join(f"{what} {version}" for what, version in versions) or " ".join(text.split())[:200]
        return InvalidRequest(
            f"the cluster at {address} and this machine do not run the same Ray and Python (first the cluster's: "
            f"{shown}); install the same here, down to the patch level",
            field="cluster.ray",
            value=address,
        )
    if "IP address" in text or "node_ip_address" in text:
        return InvalidRequest(
            f"this machine is no node of the cluster at {address}; join it (ray start --address={address} "
            "--num-cpus=0), or run on the cluster (ttc submit)",
            field="cluster.ray",
            value=address,
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return ServiceFailed(f"the Ray cluster at {address} cannot be joined: {first}", status=None)
