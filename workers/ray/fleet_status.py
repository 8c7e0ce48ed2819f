"""How models of a fleet are, made of what Ray Serve tells of its applications. No Ray in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.workers.ray.deployment import DEPLOYMENT

RUNNING = "RUNNING"
"""What Serve calls a replica that takes requests."""

READY, STARTING, FAILED, UNHEALTHY, STOPPING, MISSING = (
    "ready",
    "starting",
    "failed",
    "unhealthy",
    "stopping",
    "missing",
)
_STATES = {
    "HEALTHY": READY,
    "UPDATING": STARTING,
    "UPSCALING": READY,
    "DOWNSCALING": READY,
    "UNHEALTHY": UNHEALTHY,
    "DEPLOY_FAILED": FAILED,
}

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """How a model of the fleet is.

    Attributes:
        name: Its name.
        state: ready, starting, failed, unhealthy, stopping or missing.
        target: Replicas that there are to be now.
        replicas: Replicas by state (RUNNING, STARTING, ...).
        ids: Of those that run.
        message: Why it is not ready; empty if it is.
        num_ended: Replicas that ended lately: failed, or scaled away.
        ongoing: Requests under way in all replicas.
        engine: Counters of the replicas' engines, added up; empty where replicas do not tell.
    """

    name: str
    state: str
    target: int = 0
    replicas: Mapping[str, int] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    message: str = ""
    num_ended: int = 0
    ongoing: int = 0
    engine: Mapping[str, float] = field(default_factory=dict)

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of prompt tokens that were cached; None before there are any."""
        prompt = self.engine.get("prompt_tokens", 0)
        return self.engine.get("cached_prompt_tokens", 0) / prompt if prompt else None

    def to_json(self) -> Json:
        """JSON values."""
        return {**asdict(self), "cache_hit_rate": self.cache_hit_rate}


def status_of(
    name: str, told: Json | None, *, ongoing: int = 0, engine: Mapping[str, float] | None = None
) -> ModelStatus:
    """A model, from what Serve tells of its application; None if it has none."""
    if told is None:
        return ModelStatus(name=name, state=MISSING, message="it is not deployed; run ttc fleet up again")
    deployment: Json | None = told["deployments"].get(DEPLOYMENT)
    if deployment is None:
        state = FAILED if told["status"] == "DEPLOY_FAILED" else STARTING
        return ModelStatus(name=name, state=state, message=reason_of(told["message"]))
    states = [text_of(replica["state"]) for replica in deployment["replicas"]]
    replicas = {state: states.count(state) for state in states}
    ids = [
        replica["replica_id"] for replica, is_in in zip(deployment["replicas"], states, strict=True) if is_in == RUNNING
    ]
    state = STOPPING if text_of(told["status"]) == "DELETING" else _STATES.get(text_of(deployment["status"]), STARTING)
    target = int(deployment["target_num_replicas"])
    if state == READY and target and not replicas.get(RUNNING):
        state = STARTING
    return ModelStatus(
        name=name,
        state=state,
        target=target,
        replicas=replicas,
        ids=tuple(sorted(ids)),
        message="" if state == READY else reason_of(deployment["message"] or told["message"]),
        num_ended=len(deployment.get("recent_dead_replicas", ())),
        ongoing=ongoing,
        engine=engine or {},
    )


_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Za-z_]\w*): (\S.*)$")


def reason_of(message: str) -> str:
    """What a message of Serve comes to, in one line: of a stack trace, what was raised in the end."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if "Traceback" not in message:
        return " ".join(lines)
    ours = [line for line in lines if line.startswith("orchestrator.errors.")]
    for line in reversed(ours or lines):
        if (raised := _RAISED.match(line)) is not None:
            return raised.group(2) if ours else f"{raised.group(1)}: {raised.group(2)}"
    return lines[-1]


def text_of(value: object) -> str:
    """The text of one of Serve's states, which are texts or members of enumerations."""
    return str(getattr(value, "value", value))
