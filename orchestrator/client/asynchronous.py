"""`AsyncClient`: the service for code with an event loop; the same methods as `Client`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from orchestrator.client import calls
from orchestrator.client.address import Address, tls
from orchestrator.client.asking import JobOptions
from orchestrator.client.calls import Call
from orchestrator.client.following import Chunks, Following
from orchestrator.client.pace import IDLE_S, pause_between_polls, timeouts
from orchestrator.client.retrying import Retrying
from orchestrator.client.values import Batch, Job, JobResult, ModelInfo, PolicyInfo
from orchestrator.errors import ServiceFailed, TtcError
from orchestrator.events import Event, Publish, careful
from orchestrator.store import JobState
from orchestrator.usage import Usage

_LOG = logging.getLogger(__name__)
_FAREWELL_S = 5.0


class AsyncClient:
    """A connection to a running service, for use in one event loop.

    Requests that a busy or restarting service refuses, or that get lost, are sent again: new jobs carry a key by which
    the service knows them, so that none is created twice. Redirects are not followed.

    Args:
        base_url: Where the service is; None for ``$TTC_BASE_URL``, else this machine's port 8000.
        api_key: None for ``$TTC_API_KEY``, else none.
        timeout_s: How long the service may take over a request, connection included.
        max_retries: How often a request is sent again, at most.
        max_idle: Connections that are kept open for later requests, at most.
        transport: Instead of the network, for tests.
        sleep: Waits before a request is sent again.

    Raises:
        InvalidRequest: The address or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        max_retries: int = 4,
        max_idle: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._address = Address.of(base_url, api_key)
        self._retrying = Retrying(max_retries=max_retries)
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._farewells: set[asyncio.Task[None]] = set()
        self._http = httpx.AsyncClient(
            base_url=self._address.base_url,
            headers=self._address.headers,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=max_idle),
            follow_redirects=False,
            verify=tls(),
            transport=transport,
        )

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return self._address.base_url

    def __repr__(self) -> str:
        return f"AsyncClient({self.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; jobs go on."""
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=_FAREWELL_S)
        await self._http.aclose()

    # -- solving -----------------------------------------------------------------------------------------------

    async def solve(self, problem: str, *, on_event: Publish | None = None, **options: Unpack[JobOptions]) -> JobResult:
        """Solves one problem, as `orchestrator.Orchestrator.solve` does.

        Leaving this by an exception, cancelling the task that awaits it among them, cancels the job.

        Args:
            problem: The question or task.
            on_event: Called with every event; what it raises is logged.
            **options: See `JobOptions`.

        Raises:
            CallerError: The request cannot be carried out; nothing was spent.
            RunFailure: The job failed, or the service did.
        """
        submitted = await self.submit(problem, **options)
        async with self._cancelled_on_the_way_out(submitted.id):
            if on_event is not None:
                tell = careful(on_event)
                async with contextlib.aclosing(self.events(submitted.id)) as events:
                    async for event in events:
                        tell(event)
            return (await self.wait(submitted.id)).outcome().raise_for_error()

    async def stream(self, problem: str, **options: Unpack[JobOptions]) -> AsyncGenerator[Event]:
        """Solves one problem and yields its events: first ``started``, last ``result`` (with a `JobResult`).

        Closing the iteration early cancels the job; ``async with contextlib.aclosing(...)`` closes it at once.
        """
        submitted = await self.submit(problem, **options)
        async with self._cancelled_on_the_way_out(submitted.id):
            yield Event("started", {"job_id": submitted.id})
            async with contextlib.aclosing(self.events(submitted.id)) as events:
                async for event in events:
                    if event.kind not in {"started", "result"}:
                        yield event
            result = (await self.wait(submitted.id)).outcome()
        yield Event("result", {"result": result})

    async def batch(self, problems: Iterable[str], **options: Unpack[JobOptions]) -> AsyncGenerator[JobResult]:
        """Solves many problems under one budget, and yields their results in the order of the problems.

        A failed job is a result with an `error`. Leaving the iteration early cancels what is left of the batch.
        """
        submitted = await self.submit_batch(problems, **options)
        is_done = False
        try:
            for job in submitted.jobs:
                yield (await self.wait(job.id)).outcome()
            is_done = True
        finally:
            if not is_done:
                await self._farewell(self.cancel_batch(submitted.id))

    # -- jobs --------------------------------------------------------------------------------------------------

    async def submit(self, problem: str, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]) -> Job:
        """Hands in a problem and returns at once.

        Args:
            problem: The question or task.
            idempotency_key: A second job with the same key is the first one; None for a new key.
            **options: See `JobOptions`.
        """
        return Job.from_json(await self._json(calls.submit(problem, idempotency_key=idempotency_key, options=options)))

    async def job(self, job_id: str) -> Job:
        """A job as it is now.

        Raises:
            UnknownName: There is none of that id, or it is another's.
        """
        return Job.from_json(await self._json(calls.job(job_id)))

    async def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """The job when it has ended, or waits for a person; as it is then if ``timeout_s`` seconds pass before."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            began = time.monotonic()
            left_s = calls.LONG_POLL_S if end is None else max(0.0, min(calls.LONG_POLL_S, end - began))
            found = Job.from_json(await self._json(calls.job(job_id, wait_s=left_s)))
            if found.is_over or (end is not None and time.monotonic() >= end):
                return found
            await self._sleep(pause_between_polls(time.monotonic() - began))

    async def jobs(self, *, state: JobState | str | None = None, batch: str | None = None) -> AsyncIterator[Job]:
        """Jobs, newest first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            page = await self._json(calls.jobs(state=state, batch=batch, cursor=cursor))
            for item in calls.items_of(page):
                yield Job.from_json(item)
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> Job:
        """Ends a job with its best answer so far; `wait` tells when it has ended. A finished one stays as it is."""
        return Job.from_json(await self._json(calls.cancel(job_id)))

    async def reply(self, job_id: str, text: str) -> None:
        """Answers a job that waits for a person.

        Raises:
            JobConflict: It does not wait.
        """
        await self._send(calls.reply(job_id, text))

    async def events(self, job_id: str, *, after: int = -1) -> AsyncGenerator[Event]:
        """The job's events until its last; past ones first, then as they happen.

        A broken connection is taken up again: durable events (those with a `seq`) come in order, each once. Text
        deltas have no `seq`; those of a break are lost.

        Args:
            job_id: The job.
            after: Only durable events with a higher `seq`.
        """
        following = Following(after=after)
        attempts = self._retrying.attempts(self.base_url)
        while not following.is_over:
            try:
                async with contextlib.aclosing(self._connection(job_id, following)) as events:
                    async for event in events:
                        attempts.succeeded()
                        yield event
            except httpx.HTTPError as error:
                await self._sleep(attempts.wait_after(error))

    async def _connection(self, job_id: str, following: Following) -> AsyncGenerator[Event]:
        """The events of one connection.

        Raises:
            httpx.HTTPError: It broke, or ended before the job did.
        """
        timeout = timeouts(self._timeout_s, IDLE_S)
        path = calls.events(job_id)
        async with self._http.stream("GET", path, headers=following.headers, timeout=timeout) as response:
            if not response.is_success:
                await response.aread()
            response.raise_for_status()
            async for piece in response.aiter_bytes():
                for event in following.feed(piece):
                    yield event
        if not following.is_over:
            following.is_over = (await self.job(job_id)).is_over
        if not following.is_over:
            raise httpx.RemoteProtocolError("the stream of events ended before the job did")

    async def usage(self, job_id: str) -> Usage:
        """What a job has cost so far."""
        body = await self._json(calls.usage(job_id))
        return Usage.from_json(body.get("usage", body))

    async def tree(self, job_id: str) -> calls.Json:
        """What a job has sampled so far, as JSON values."""
        return await self._json(calls.tree(job_id))

    # -- batches -----------------------------------------------------------------------------------------------

    async def submit_batch(
        self, problems: Iterable[str], *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> Batch:
        """Hands in many problems under one budget and returns at once; arguments as for `submit`."""
        call = calls.submit_batch(problems, idempotency_key=idempotency_key, options=options)
        return Batch.from_json(await self._json(call))

    async def batch_status(self, batch_id: str) -> Batch:
        """A batch as it is now."""
        return Batch.from_json(await self._json(calls.batch(batch_id)))

    async def cancel_batch(self, batch_id: str) -> Batch:
        """Ends all jobs of a batch with their best answers so far."""
        return Batch.from_json(await self._json(calls.cancel_batch(batch_id)))

    # -- chats -------------------------------------------------------------------------------------------------

    async def chat(self, body: Mapping[str, Any]) -> calls.Json:  # Any: JSON values
        """A whole reply to a chat in the form of OpenAI (``POST /v1/chat/completions``).

        Args:
            body: ``model``, ``messages`` and what else the endpoint takes.
        """
        return await self._json(calls.chat(body))

    async def chat_stream(self, body: Mapping[str, Any]) -> AsyncGenerator[calls.Json]:  # Any: JSON values
        """The chunks of a reply, as they come; a stream that breaks is an error. Leaving it early ends the spending."""
        call = calls.chat({**body, "stream": True})
        attempts = self._retrying.attempts(self.base_url, is_repeatable=False)
        while True:
            chunks = Chunks()
            try:
                async with self._http.stream(
                    call.method, call.path, json=call.body, timeout=timeouts(self._timeout_s, call.hold_s)
                ) as response:
                    if not response.is_success:
                        await response.aread()
                    response.raise_for_status()
                    async for piece in response.aiter_bytes():
                        for chunk in chunks.feed(piece):
                            yield chunk
            except httpx.HTTPError as error:
                await self._sleep(attempts.wait_after(error))
            else:
                chunks.check_end()
                return

    # -- what there is -----------------------------------------------------------------------------------------

    async def policies(self) -> tuple[PolicyInfo, ...]:
        """The policies that the service has."""
        return tuple(map(PolicyInfo.from_json, calls.items_of(await self._json(calls.listing("/v1/policies")))))

    async def models(self) -> tuple[ModelInfo, ...]:
        """The names that may stand for a model in a chat request."""
        return tuple(map(ModelInfo.from_json, calls.items_of(await self._json(calls.listing("/v1/models")))))

    # -- how ---------------------------------------------------------------------------------------------------

    async def _json(self, call: Call) -> calls.Json:
        return calls.json_of(await self._send(call))

    async def _send(self, call: Call) -> bytes:
        """The body of the success that the call ends with, after as many attempts as it takes.

        Raises:
            TtcError: What the service says, or that there is none.
        """
        attempts = self._retrying.attempts(self.base_url, is_repeatable=call.is_repeatable)
        timeout = timeouts(self._timeout_s, call.hold_s + self._timeout_s)
        while True:
            try:
                response = await self._http.request(
                    call.method,
                    call.path,
                    params=call.query,
                    json=call.body,
                    headers=call.headers,
                    timeout=timeout,
                )
                return response.raise_for_status().content
            except httpx.HTTPError as error:
                await self._sleep(attempts.wait_after(error))

    @contextlib.asynccontextmanager
    async def _cancelled_on_the_way_out(self, job_id: str) -> AsyncIterator[None]:
        """Ends the job if the body is left by an exception, a cancelled task or a closed iteration among them."""
        try:
            yield
        except ServiceFailed as error:
            error.add_note(f"job {job_id!r} may go on")
            raise
        except TtcError:
            raise
        except BaseException:
            await self._farewell(self.cancel(job_id))
            raise

    async def _farewell(self, request: Coroutine[Any, Any, object]) -> None:  # Any: as typing wants them
        """Sends a last request; the caller's own cancellation does not stop it, and `aclose` waits for it."""
        # No task group: the one of whoever is being cancelled is being cancelled, too.
        task = asyncio.create_task(_quietly(request))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)
        await asyncio.shield(task)


async def _quietly(request: Coroutine[Any, Any, object]) -> None:  # Any: as typing wants them
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await request
    except (TtcError, TimeoutError) as error:
        _LOG.warning("what nobody waits for could not be cancelled", extra={"reason": repr(error)})
