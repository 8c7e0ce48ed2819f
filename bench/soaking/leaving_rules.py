"""What must be so when clients have left: no further calls, no further spending, and books that agree with the model's.

Of each job:

- **Calls.** A call is *in flight* when its client leaves if the service had sent it by the time it knew. So no call may
  begin later than `NOTICE_S` after the client has left, and none after the model server has seen the service cut
  another call of the job because the client had left. The server may be behind: a call that it found closed when it had
  read it, and wrote no token for, was sent before.
- **Tokens, from above.** The service counts no token that the model server has not written: at most the tokens of calls
  that were cut, and what the server's usage says of whole ones.
- **Tokens, from below.** It counts every token that was written more than `SOCKET_S` before its call was over or the
  client had left; later ones may have been in the socket when the service closed it.
- **Whole jobs.** If nobody left and no call was cut, the counts are equal.

And of all: the account holds the sum of the jobs' costs, and nothing is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.bench.soaking.upstream import TOKEN_S, CallLog
from orchestrator.budget import Amount

NOTICE_S = 1.0
SOCKET_S = 0.5
"""A busy machine lets a process wait for so long."""

Json = dict[str, Any]  # Any: JSON values


@dataclass(slots=True)
class Seen:
    """All that is known of one job.

    Attributes:
        number: The job's.
        left_at: When its client had left; None if it did not.
        failure: What the client got and should not have.
        is_chat: Its client leaves by closing the connection.
        job: As `GET /v1/jobs` tells it; None if it was never created.
        calls: The model server's log.
    """

    number: int
    left_at: float | None
    failure: str
    is_chat: bool
    job: Json | None
    calls: list[CallLog]

    @property
    def output_tokens(self) -> int:
        """As the service counts them."""
        return int(((self.job or {}).get("usage") or {}).get("output_tokens", 0))

    @property
    def written_tokens(self) -> int:
        """The most that the service may count."""
        return sum(call.billed_tokens for call in self.calls)

    @property
    def certain_tokens(self) -> int:
        """The least that the service may count."""
        return sum(self._certain(call) for call in self.calls)

    def _certain(self, call: CallLog) -> int:
        assert call.ended_at is not None, "all calls are over"
        over = min(call.ended_at, self.left_at or call.ended_at) - SOCKET_S
        if call.left_at is None and (self.left_at is None or call.ended_at < over):
            return call.billed_tokens
        return sum(at < over for at in call.token_times)

    @property
    def cut_at(self) -> float | None:
        """When the model server first saw the service cut a call of this job after the client had left."""
        return min((at for at in self._cuts() if self.left_at is not None and at >= self.left_at), default=None)

    def _cuts(self) -> Iterable[float]:
        return (call.left_at for call in self.calls if call.left_at is not None)

    @property
    def late_calls(self) -> list[CallLog]:
        """Calls that began after the client had left."""
        return [call for call in self.calls if self.left_at is not None and call.began_at > self.left_at]

    @property
    def forbidden_calls(self) -> list[CallLog]:
        """Those of them that were not in flight."""
        latest = (self.left_at or 0) + NOTICE_S
        cut_at = self.cut_at or latest
        return [
            call
            for call in self.late_calls
            if call.began_at > latest or (call.began_at > cut_at and not _was_closed_when_read(call))
        ]

    @property
    def closed_calls(self) -> list[CallLog]:
        """Those of them that the service had closed when the model server read them."""
        return [call for call in self.late_calls if _was_closed_when_read(call)]

    def _told_calls(self) -> str:
        """All calls, in seconds from when the client had left."""
        left_at = self.left_at or 0
        return ", ".join(
            f"{call.began_at - left_at:.4f} to {(call.ended_at or 0) - left_at:.4f} ({len(call.token_times)} tokens)"
            for call in self.calls
        )

    @property
    def num_tokens_after(self) -> int:
        """Tokens written after the client had left."""
        return sum(at > (self.left_at or float("inf")) for call in self.calls for at in call.token_times)

    def problems(self) -> list[str]:
        """Which rules do not hold."""
        found = [self.failure] if self.failure else []
        if self.job is None and (self.calls or self.left_at is None):
            found.append("the service does not know the job")
        if self.forbidden_calls:
            found.append(f"{len(self.forbidden_calls)} calls began after it was over: {self._told_calls()}")
        if not self.certain_tokens <= self.output_tokens <= self.written_tokens:
            bounds = f"from {self.certain_tokens} to {self.written_tokens}"
            found.append(f"the service counts {self.output_tokens} tokens, not {bounds}")
        if self.left_at is None and self.job is not None and self.job["state"] != "succeeded":
            found.append(f"nobody left, and it is {self.job['state']}: {self.job['error']}")
        is_whole = self.left_at is None and all(call.left_at is None for call in self.calls)
        if is_whole and self.output_tokens != self.written_tokens:
            found.append(f"nobody left, and {self.output_tokens} is not {self.written_tokens}")
        return [f"job {self.number}: {problem}" for problem in found]


def _was_closed_when_read(call: CallLog) -> bool:
    """A connection that is open when a call is read is still open when the first token is due."""
    return not call.token_times and call.left_at is not None and call.left_at - call.began_at < TOKEN_S / 2


def findings(jobs: Sequence[Seen], *, spent: Amount, set_aside: Amount) -> Json:
    """The figures, as JSON values; ``problems`` is empty if all rules hold."""
    left = [job for job in jobs if job.left_at is not None]
    calls = [call for job in jobs for call in job.calls]
    cut = [(job, call) for job in left for call in job.calls if call.left_at is not None]
    notices = sorted(
        call.left_at - job.left_at
        for job, call in cut
        if job.left_at is not None and call.left_at is not None and call.left_at >= job.left_at
    )
    late = [(call.began_at - (job.left_at or 0)) for job in left for call in job.late_calls]
    gaps = [job.written_tokens - job.output_tokens for job in jobs]
    total = sum(job.output_tokens for job in jobs)
    problems = [problem for job in jobs for problem in job.problems()]
    if spent.output_tokens != total:
        problems.append(f"the account says {spent.output_tokens} tokens, the jobs {total}")
    if set_aside != Amount():
        problems.append(f"still set aside: {set_aside.to_json()}")
    return {
        "num_jobs": len(jobs),
        "num_left": len(left),
        "num_chats_left": sum(job.is_chat for job in left),
        "num_left_before_end": sum(job.job is not None and job.job["state"] == "cancelled" for job in left),
        "num_never_created": sum(job.job is None for job in jobs),
        "num_calls": len(calls),
        "num_calls_cut": sum(call.left_at is not None for call in calls),
        "num_calls_in_flight": len(late) - sum(len(job.forbidden_calls) for job in left),
        "num_calls_closed_when_read": sum(len(job.closed_calls) for job in left),
        "longest_in_flight_s": round(max(late, default=0.0), 3),
        "num_calls_after": sum(len(job.forbidden_calls) for job in left),
        "notice_s": _quantiles(notices),
        "num_tokens_after": sum(job.num_tokens_after for job in left),
        "written_tokens": sum(job.written_tokens for job in jobs),
        "output_tokens": total,
        "num_jobs_with_equal_counts": sum(gap == 0 for gap in gaps),
        "largest_gap_tokens": max(gaps, default=0),
        "account_tokens": spent.output_tokens,
        "problems": problems,
    }


def _quantiles(values: Sequence[float]) -> Json:
    if not values:
        return {}
    return {
        "median": round(values[len(values) // 2], 4),
        "p99": round(values[min(len(values) - 1, len(values) * 99 // 100)], 4),
        "max": round(values[-1], 4),
    }
