"""A service in memory: what it answers, how its connections break, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

ROWS = [("begin", {"a": 0}), ("sample", {"a": 0, "i": 0}), ("done", {"a": 0}), ("final", {"t": 1.0})]
"""The journal of every job of the fake."""


def result_of(job_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "state": "succeeded",
        "answer": "391",
        "confidence": 0.75,
        "confidence_kind": "majority_posterior",
        "alternatives": [{"answer": "381", "share": 0.25}],
        "stop_reason": "completed",
        "limited_by": None,
        "num_samples": 4,
        "usage": {"prompt_tokens": 10, "output_tokens": 20},
        "budget": {"max_output_tokens": 100},
        "error": None,
        "question": None,
    } | changes


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream of pieces; an exception among them breaks it."""

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


@dataclass
class FakeService:
    """Answers as the service does.

    Attributes:
        faults: What the next requests meet instead of an answer: a status, or an exception.
        cuts: After how many rows the next event streams break.
        requests: What came in.
        jobs: By id; a job ends when it is polled for the second time.
        changes: Of every result.
    """

    faults: list[httpx.Response | Exception] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    sleeps: list[float] = field(default_factory=list)
    on_request: Callable[[httpx.Request], None] = lambda _: None

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)

    def asked(self, method: str) -> list[str]:
        """Paths of the requests of one method."""
        return [request.url.path for request in self.requests if request.method == method]

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.on_request(request)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        parts = request.url.path.removeprefix("/v1/").split("/")
        match request.method, parts:
            case "POST", ["jobs"]:
                return self._created(request)
            case "GET", ["jobs"]:
                return self._page(request)
            case "GET", ["jobs", job_id]:
                return self._job(job_id)
            case "DELETE", ["jobs", job_id]:
                self.jobs[job_id] |= {"state": "cancelled"}
                return self._job(job_id)
            case "GET", ["jobs", job_id, "events"]:
                return self._events(request)
            case "GET", ["jobs", job_id, "usage"]:
                return httpx.Response(200, json={"output_tokens": 20})
            case "POST", ["jobs", job_id, "input"]:
                return httpx.Response(200, json=self.jobs[job_id])
            case "POST", ["batches"]:
                return self._batch(json.loads(request.content))
            case "DELETE", ["batches", _]:
                return self._batch({"requests": []})
            case "GET", ["policies"]:
                return httpx.Response(200, json={"data": [{"name": "single", "summary": "One sample."}]})
            case "GET", ["models"]:
                return httpx.Response(200, json={"data": [{"id": "ttc/auto", "object": "model"}]})
        return httpx.Response(
            404,
            json={"error": {"code": "unknown_name", "message": "no", "kind": "job", "name": parts[-1], "known": []}},
        )

    def _created(self, request: httpx.Request) -> httpx.Response:
        key = request.headers["idempotency-key"]
        job_id = self.keys.setdefault(key, f"job-{len(self.keys)}")
        return httpx.Response(202, json=self.jobs.setdefault(job_id, self._view(job_id)))

    def _view(self, job_id: str) -> dict[str, Any]:
        return {"id": job_id, "state": "queued", "created_at": 5.0, "result": None, "from_the_future": True}

    def _job(self, job_id: str) -> httpx.Response:
        view = self.jobs.get(job_id)
        if view is None:
            fields = {"code": "unknown_name", "message": f"unknown job {job_id!r}", "kind": "job", "known": []}
            return httpx.Response(404, json={"error": fields | {"type": "x", "param": None, "name": job_id}})
        shown = dict(view)
        if view["state"] == "queued":
            view["state"] = "running"
        elif view["state"] == "running":
            result = result_of(job_id, **self.changes)
            view |= {"state": result["state"], "result": result}
        return httpx.Response(200, json=shown)

    def _page(self, request: httpx.Request) -> httpx.Response:
        names = sorted(self.jobs, reverse=True)
        cursor, limit = request.url.params.get("cursor"), 2
        rest = [name for name in names if cursor is None or name < cursor]
        page = [self.jobs[name] for name in rest[:limit]]
        following = rest[limit - 1] if len(rest) > limit else None
        return httpx.Response(200, json={"object": "list", "data": page, "next_cursor": following})

    def _batch(self, body: dict[str, Any]) -> httpx.Response:
        jobs = []
        for index, _ in enumerate(body["requests"]):
            self.jobs[f"b-{index}"] = self._view(f"b-{index}")
            jobs.append(dict(self.jobs[f"b-{index}"]))
        answer = {"id": "batch", "jobs": jobs, "counts": {"queued": len(jobs)}, "is_finished": False, "usage": {}}
        return httpx.Response(202, json=answer)

    def _events(self, request: httpx.Request) -> httpx.Response:
        after = int(request.headers.get("last-event-id", "-1"))
        rows = list(enumerate(ROWS))[max(0, after) :]  # the last one known is told again, as a careless service might
        cut = self.cuts.pop(0) if self.cuts else None
        pieces: list[bytes | Exception] = [b": hello\n\n", b'event: delta\ndata: {"text": "4"}\n\n']
        for place, (seq, (kind, data)) in enumerate(rows):
            if place == cut:
                pieces += [b"event: sam", httpx.ReadError("the connection broke")]
            pieces.append(f"id: {seq}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Body(pieces))
