"""A job server like that of a Ray cluster, in a thread: its jobs answer every problem with 4, and it has bad habits."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from orchestrator.api.terminal.cluster_job import Order
from orchestrator.api.terminal.job_log import JobLogWriter
from orchestrator.api.terminal.problems import read_problems

Json = dict[str, Any]


@dataclass
class FakeJob:
    """A job.

    Attributes:
        request: As submitted.
        order: What it was told.
        sent: Ids of the problems that came with it.
        log: File of its output.
        details: What the server says of it.
    """

    request: Json
    order: Order
    sent: list[str]
    log: Path
    details: Json

    @property
    def writer(self) -> JobLogWriter:
        return JobLogWriter(self.order.job_id, fd=os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def say(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)

    def end(self, status: str = "SUCCEEDED", exit_code: int | None = 0, message: str = "") -> None:
        self.details.update(status=status, driver_exit_code=exit_code, message=message)


def solve_all(job: FakeJob) -> None:
    """Writes a row for each problem and ends well."""
    writer = job.writer
    writer.write_record("start", num_problems=len(job.sent), distribution="0")
    for number, row_id in enumerate(job.sent, 1):
        writer.write(row_of(row_id, line=number))
    writer.write_record("end")
    job.end()


def row_of(row_id: str, **values: Any) -> Json:
    return {"id": row_id, "status": "ok", "answer": "4", "usage": {"output_tokens": 7}, "usd": 0.5} | values


@dataclass
class FakeJobServer:
    """The server.

    Attributes:
        folder: For its jobs' logs.
        version: Of its Ray.
        behave: What a job does as soon as it is submitted.
        jobs: By id, in order.
        seen: Requests: method and path.
        breaks: So many times a log breaks off after its first bytes.
        swallows: The answer to the next submission is lost.
        hangs_up_on: Requests whose first try finds the connection closed: method and beginning of the path.
        token: What requests must bear.
    """

    folder: Path
    version: str = "2.60.0"
    behave: Callable[[FakeJob], None] = solve_all
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    breaks: int = 0
    swallows: bool = False
    hangs_up_on: set[tuple[str, str]] = field(default_factory=set)
    token: str | None = None
    address: str = ""

    @property
    def last(self) -> FakeJob:
        return list(self.jobs.values())[-1]

    def app(self) -> web.Application:
        @web.middleware
        async def noting(request: web.Request, handler: Any) -> web.StreamResponse:
            self.seen.append((request.method, request.path))
            if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
                return web.Response(status=401, text="Unauthorized")
            for method, path in list(self.hangs_up_on):
                if request.method == method and request.path.startswith(path):
                    self.hangs_up_on.discard((method, path))
                    assert request.transport is not None
                    request.transport.abort()
            response: web.StreamResponse = await handler(request)
            return response

        app = web.Application(middlewares=[noting], client_max_size=100 << 20)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/packages/gcs/{name}", self._package)
        app.router.add_put("/api/packages/gcs/{name}", self._upload)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_get("/api/jobs/{id}", self._state)
        app.router.add_post("/api/jobs/{id}/stop", self._stop)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._log)
        return app

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": self.version})

    async def _package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _upload(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["submission_id"] in self.jobs:
            return web.Response(status=500, text="Traceback\nValueError: Job already exists. Please use a different")
        name = body["runtime_env"]["working_dir"].removeprefix("gcs://")
        with zipfile.ZipFile(io.BytesIO(self.packages[name])) as files:
            order = Order.model_validate_json(files.read("job.json"))
            sent = []
            if "problems.jsonl" in files.namelist():
                path = self.folder / f"{order.job_id}.jsonl"
                path.write_bytes(files.read("problems.jsonl"))
                sent = [problem.id for problem in read_problems(str(path))]
        details = {
            "submission_id": order.job_id,
            "status": "RUNNING",
            "message": "",
            "driver_exit_code": None,
            "metadata": body["metadata"],
        }
        job = FakeJob(body, order, sent, self.folder / f"{order.job_id}.log", details)
        job.log.touch()
        self.jobs[order.job_id] = job
        self.behave(job)
        if self.swallows:
            self.swallows = False
            return web.Response(status=502, text="bad gateway")
        return web.json_response({"submission_id": order.job_id})

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([job.details for job in self.jobs.values()])

    async def _state(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        return web.Response(status=404) if job is None else web.json_response(job.details)

    async def _stop(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        was_running = job.details["status"] == "RUNNING"
        if was_running:
            job.end("STOPPED", None)
        return web.json_response({"stopped": was_running})

    async def _log(self, request: web.Request) -> web.WebSocketResponse:
        job = self.jobs[request.match_info["id"]]
        socket = web.WebSocketResponse(timeout=0.1)
        await socket.prepare(request)
        position = 0
        while True:
            is_over = job.details["status"] != "RUNNING"
            text = job.log.read_text()[position:]
            if self.breaks and text:
                self.breaks -= 1
                await socket.send_str(text[: len(text) // 2])
                assert request.transport is not None
                request.transport.abort()
                return socket
            if text:
                await socket.send_str(text)
                position += len(text)
            elif is_over:
                return socket
            await asyncio.sleep(0.01)


@contextmanager
def running_job_server(folder: Path) -> Iterator[FakeJobServer]:
    """The server on a free port, for as long as the context is open."""
    server, ready = FakeJobServer(folder), threading.Event()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        over = asyncio.Event()
        ends.append((asyncio.get_running_loop(), over))
        ready.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        ((loop, over),) = ends
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
