"""The rules for clients that leave find what breaks them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.bench.soaking.leaving_rules import NOTICE_S, SOCKET_S, Seen, findings
from orchestrator.bench.soaking.upstream import CallLog
from orchestrator.budget import Amount


def call(began_at: float, num_tokens: int, *, left_at: float | None = None, ended_at: float | None = None) -> CallLog:
    times = [began_at + 0.1 * (place + 1) for place in range(num_tokens)]
    ended_at = ended_at or left_at or began_at + 0.1 * num_tokens
    return CallLog(job=1, began_at=began_at, token_times=times, left_at=left_at, ended_at=ended_at)


def seen(*calls: CallLog, tokens: int, left_at: float | None = None, **fields: Any) -> Seen:
    state = "succeeded" if left_at is None else "cancelled"
    job = {"state": state, "error": None, "usage": {"output_tokens": tokens}}
    return Seen(
        **({"number": 1, "left_at": left_at, "failure": "", "is_chat": True, "job": job} | fields), calls=[*calls]
    )


def test_a_job_that_nobody_left_counts_what_the_server_says_with_its_end_token() -> None:
    assert seen(call(0, 20), tokens=21).problems() == []


@pytest.mark.parametrize("tokens", [20, 22])
def test_a_token_more_or_less_than_the_server_says_is_found(tokens: int) -> None:
    assert len(seen(call(0, 20), tokens=tokens).problems()) > 0


def test_tokens_that_may_have_been_in_the_socket_may_be_missing_and_no_others() -> None:
    cut = call(0, 20, left_at=2.01)
    fewest = sum(at < 2 - SOCKET_S for at in cut.token_times)
    assert seen(cut, tokens=fewest, left_at=2.0).problems() == []
    assert "counts" in seen(cut, tokens=fewest - 1, left_at=2.0).problems()[0]
    assert "counts" in seen(cut, tokens=21, left_at=2.0).problems()[0]


def test_a_call_that_was_under_way_to_the_server_is_in_flight() -> None:
    late = call(2.1, 0, left_at=2.2)
    job = seen(call(0, 20, left_at=2.15), late, tokens=20, left_at=2.0)
    assert (job.late_calls, job.forbidden_calls, job.problems()) == ([late], [], [])


@pytest.mark.parametrize("began_at", [2.3, 2.0 + NOTICE_S + 0.1])
def test_a_call_that_begins_when_the_job_is_known_to_be_over_is_found(began_at: float) -> None:
    first = call(0, 20, left_at=2.2) if began_at < 3 else call(0, 19)
    job = seen(first, call(began_at, 0, left_at=began_at + 0.1), tokens=20, left_at=2.0)
    assert len(job.forbidden_calls) == 1
    assert "began after it was over" in job.problems()[0]


def test_a_call_that_was_closed_when_the_server_read_it_was_sent_before() -> None:
    late = call(2.3, 0, left_at=2.3002)
    job = seen(call(0, 20, left_at=2.2), late, tokens=20, left_at=2.0)
    assert (job.closed_calls, job.problems()) == ([late], [])


def test_a_job_that_fails_although_nobody_left_and_one_that_is_unknown_are_found() -> None:
    failed = {"state": "failed", "error": {"message": "m"}, "usage": {"output_tokens": 21}}
    assert "nobody left" in seen(call(0, 20), tokens=0, job=failed).problems()[0]
    assert "does not know" in seen(call(0, 20), tokens=0, job=None).problems()[0]


def test_books_that_do_not_agree_are_found() -> None:
    jobs = [seen(call(0, 20), tokens=21)]
    assert findings(jobs, spent=Amount(output_tokens=21), set_aside=Amount())["problems"] == []
    assert len(findings(jobs, spent=Amount(output_tokens=20), set_aside=Amount(output_tokens=1))["problems"]) == 2
