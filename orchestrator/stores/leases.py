"""Who holds a job, and whether they still can: the rules all stores share."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from orchestrator.errors import JobConflict
from orchestrator.store import JobState


def new_owner() -> str:
    """This process as an owner of jobs: ``host:pid:nonce``."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def check_claim(
    job_id: str, *, state: JobState, holder: str | None, lease_until: float, owner: str, now: float, force: bool
) -> None:
    """Whether ``owner`` may take the job from ``holder``.

    Raises:
        JobConflict: It is finished, or another live owner holds it and ``force`` is not set.
    """
    if state.is_terminal:
        raise JobConflict(f"job {job_id!r} is {state.value} and cannot be taken up again", job_id=job_id)
    if force or holder is None or holder == owner or now >= lease_until or is_dead(holder):
        return
    raise JobConflict(
        f"job {job_id!r} is held by {holder!r} for another {lease_until - now:.1f} s; wait, or take it by force",
        job_id=job_id,
        owner=holder,
    )


def lease_end(state: JobState, *, now: float, lease_s: float) -> float:
    """Until when an append renews the lease; jobs that do not run are let go."""
    return now + lease_s if state is JobState.RUNNING else 0.0


class Holders:
    """Who still holds their jobs at one moment; asks once for each process.

    Args:
        now: Seconds since the epoch.
    """

    def __init__(self, *, now: float) -> None:
        self._now = now
        self._is_dead: dict[str, bool] = {}

    def has_lost(self, owner: str | None, lease_until: float) -> bool:
        """Whether a running job can be taken from ``owner``."""
        if owner is None or self._now >= lease_until:
            return True
        if owner not in self._is_dead:
            self._is_dead[owner] = is_dead(owner)
        return self._is_dead[owner]


def is_dead(owner: str) -> bool:
    """Whether an owner is a process of this host that has ended; False where that cannot be told."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended but its parent has not noticed (Linux only)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[:1] == [b"Z"]
