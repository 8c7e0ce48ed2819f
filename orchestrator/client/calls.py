"""The requests that both clients send, and how their answers are read: one function a request, without any I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from orchestrator.client.asking import job_body
from orchestrator.errors import InvalidRequest, ServiceFailed
from orchestrator.store import JobState

Json = dict[str, Any]  # Any: JSON values

CHAT_S = 600.0
"""How long a reply to a chat may take to come, or to go on."""
LONG_POLL_S = 20.0
"""How long one request waits for the end of a job, at most."""
PAGE_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request.

    Attributes:
        method: Of HTTP.
        path: Below the service's address.
        query: Parameters of the address.
        body: JSON values; None for none.
        headers: Beside those that every request has.
        is_repeatable: Whether sending it twice does no harm.
        hold_s: How long the service may take over it on purpose.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    hold_s: float = 0.0


def submit(problem: str, *, idempotency_key: str | None, options: Mapping[str, Any]) -> Call:
    """A new job. Its key, of the caller's or made here, lets it be sent again without becoming two jobs."""
    return _creation("/v1/jobs", {"problem": problem, **job_body(options)}, idempotency_key)


def submit_batch(problems: Iterable[str], *, idempotency_key: str | None, options: Mapping[str, Any]) -> Call:
    """A new batch; its jobs share the budget."""
    body = job_body(options)
    budget = {"budget": body.pop("budget")} if "budget" in body else {}
    requests = [{"problem": problem, **body} for problem in problems]
    if not requests:
        raise InvalidRequest("a batch needs at least one problem", field="problems", value="")
    return _creation("/v1/batches", {"requests": requests, **budget}, idempotency_key)


def _creation(path: str, body: Json, idempotency_key: str | None) -> Call:
    return Call(method="POST", path=path, body=body, headers={"idempotency-key": idempotency_key or uuid.uuid4().hex})


def job(job_id: str, *, wait_s: float = 0.0) -> Call:
    """One job, as it is or, with ``wait_s``, as it is when it has ended or so much time has passed."""
    query = {"wait": f"{wait_s:g}"} if wait_s > 0 else {}
    return Call(method="GET", path=_of_job(job_id), query=query, hold_s=max(0.0, wait_s))


def jobs(*, state: JobState | str | None, batch: str | None, cursor: str | None) -> Call:
    """A page of jobs, newest first."""
    wanted = {"state": state and str(state), "batch": batch, "cursor": cursor, "limit": str(PAGE_SIZE)}
    return Call(method="GET", path="/v1/jobs", query={name: value for name, value in wanted.items() if value})


def cancel(job_id: str) -> Call:
    """The end of a job."""
    return Call(method="DELETE", path=_of_job(job_id))


def reply(job_id: str, text: str) -> Call:
    """An answer to a job's question. Not repeatable: it may have arrived, and the job may have asked anew."""
    return Call(method="POST", path=f"{_of_job(job_id)}/input", body={"text": text}, is_repeatable=False)


def events(job_id: str) -> str:
    """The path of a job's events."""
    return f"{_of_job(job_id)}/events"


def usage(job_id: str) -> Call:
    """What a job has cost so far."""
    return Call(method="GET", path=f"{_of_job(job_id)}/usage")


def tree(job_id: str) -> Call:
    """What a job has sampled so far."""
    return Call(method="GET", path=f"{_of_job(job_id)}/tree")


def chat(body: Mapping[str, Any]) -> Call:
    """A chat in the form of OpenAI. Not repeatable: each one is paid for."""
    return Call(method="POST", path="/v1/chat/completions", body=dict(body), is_repeatable=False, hold_s=CHAT_S)


def batch(batch_id: str) -> Call:
    """One batch."""
    return Call(method="GET", path=f"/v1/batches/{_part(batch_id)}")


def cancel_batch(batch_id: str) -> Call:
    """The end of all jobs of a batch."""
    return Call(method="DELETE", path=f"/v1/batches/{_part(batch_id)}")


def listing(path: str) -> Call:
    """A list that needs no parameters."""
    return Call(method="GET", path=path)


def json_of(body: bytes) -> Json:
    """The object that a success holds.

    Raises:
        ServiceFailed: It holds none.
    """
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServiceFailed("the answer is no JSON object; is base_url the address of ttc serve?", is_retryable=False)
    return found


def items_of(body: Json) -> list[Json]:
    """The objects of a list.

    Raises:
        ServiceFailed: It is no list.
    """
    items = body.get("data")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ServiceFailed("the answer is no list of objects", is_retryable=False)
    return items


def _of_job(job_id: str) -> str:
    return f"/v1/jobs/{_part(job_id)}"


def _part(name: str) -> str:
    """One part of a path, whatever it holds."""
    if not isinstance(name, str) or not name.strip("."):
        raise InvalidRequest(f"{name!r} is no id", field="id", value=name)
    return quote(name, safe="")
