"""Where the Ray that ``ttc fleet up`` started on this machine is found, by whoever uses its models later."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import InvalidRequest


class LocalCluster(NamedTuple):
    """A Ray of this machine.

    Attributes:
        address: ``HOST:PORT`` of its control store.
        pid: The process that keeps it, and ends it when it is told to end.
        token_file: Holds the token without which it answers nobody.
    """

    address: str
    pid: int
    token_file: str


def state_file(namespace: str) -> Path:
    """Where a fleet's local Ray is noted: ``ttc/fleets`` in the user's folder for state."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "ttc" / "fleets" / f"{namespace}.json"


def read_local(namespace: str) -> LocalCluster | None:
    """The local Ray that was last started for a fleet; None if it was ended, or none was started."""
    try:
        noted = json.loads(state_file(namespace).read_text(encoding="utf-8"))
        return LocalCluster(str(noted["address"]), int(noted["pid"]), str(noted["token_file"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_local(namespace: str, cluster: LocalCluster) -> None:
    """Notes a Ray that was started."""
    file = state_file(namespace)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(cluster._asdict()), encoding="utf-8")
    partial.replace(file)


def forget_local(namespace: str) -> None:
    """Notes that it was ended."""
    state_file(namespace).unlink(missing_ok=True)


def local_address(namespace: str) -> str:
    """Where a fleet's local Ray is reached.

    Raises:
        InvalidRequest: None was started.
    """
    noted = read_local(namespace)
    if noted is None:
        raise InvalidRequest(
            f'the fleet\'s Ray (cluster.ray = "local", namespace {namespace!r}) does not run; start it with: '
            "ttc fleet up FILE",
            field="cluster.ray",
            value="local",
        )
    return noted.address
