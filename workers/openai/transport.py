"""The one place that talks HTTP: a session, its key, its time limits; replies are bounded and never redirected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yarl import URL

from orchestrator.clock import Clock
from orchestrator.errors import EngineFailed, MissingDependency
from orchestrator.workers.openai.failures import Failures, PromptTooLong, UpstreamFailed, of_exception
from orchestrator.workers.openai.options import OpenAIOptions
from orchestrator.workers.openai.reading import Pace, events_in
from orchestrator.workers.openai.sse import excerpt

if TYPE_CHECKING:
    import aiohttp

_MAX_REPLY_BYTES = 64 << 20  # embeddings of a batch
_MAX_ERROR_BYTES = 64 << 10
_LONGEST_WAIT_S = 60.0
_SHORT_TIMEOUT_S = 10.0
_JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: exponential, with jitter, or what the server asks for.

    Attributes:
        max_retries: Attempts after the first.
        first_s: Mean of the first wait.
        cap_s: Longest wait of its own choice.
    """

    max_retries: int
    first_s: float = 0.5
    cap_s: float = 8.0

    def wait_s(self, attempt: int, error: UpstreamFailed) -> float | None:
        """Seconds to wait after attempt number ``attempt`` (from 0); None to give up."""
        if not error.is_retryable or attempt >= self.max_retries:
            return None
        if error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= _LONGEST_WAIT_S else None
        return min(self.cap_s, self.first_s * 2.0**attempt) * random.uniform(0.5, 1.5)  # noqa: S311  # jitter


class Transport:
    """Requests to one server.

    Args:
        options: Address, key, limits.
        clock: Waits between attempts.
    """

    def __init__(self, options: OpenAIOptions, *, clock: Clock) -> None:
        self.url = options.url
        self.host = URL(options.url).authority
        self.failures = Failures(
            model=options.name or options.model or "?", host=self.host, secrets=[options.key, *options.headers.values()]
        )
        self.backoff = Backoff(options.max_retries)
        self._options = options
        self._clock = clock
        self._pace = Pace()
        self._addresses: dict[str, URL] = {}
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Closes all connections; safe to call twice."""
        if self._session is not None:
            await self._session.close()

    async def get_json(self, path: str) -> Any:  # Any: JSON value
        """A small reply; one attempt, ten seconds.

        Args:
            path: Below ``base_url``; with a leading slash, below its host.

        Raises:
            UpstreamFailed: No success, or no JSON.
        """
        async with self._reply("GET", path, None, timeout_s=_SHORT_TIMEOUT_S) as reply:
            return await self._json_of(reply)

    async def post_json(self, path: str, body: Mapping[str, Any]) -> Any:  # Any: JSON values
        """A whole reply, tried again like a stream.

        Raises:
            EngineFailed: No attempt brought one.
        """
        attempt = 0
        while True:
            try:
                async with self._reply("POST", path, body) as reply:
                    return await self._json_of(reply)
            except PromptTooLong as error:
                raise EngineFailed("a text is too long for the model", model=path, is_retryable=False) from error
            except UpstreamFailed as error:
                await self.pause(attempt, error)
                attempt += 1

    async def whole(self, path: str, body: Mapping[str, Any]) -> bytes:  # Any: JSON values
        """A reply in one piece; one attempt.

        Raises:
            UpstreamFailed: There is none.
            PromptTooLong: The server says so.
        """
        async with self._reply("POST", path, body) as reply:
            return await _bytes_of(reply, _MAX_REPLY_BYTES)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        path: str,
        body: Mapping[str, Any],  # Any: JSON values
        *,
        num_samples: int,
        is_paced: bool,
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """The events of a streamed reply, up to ``[DONE]``, as many at once as have come; one attempt.

        Leaving the context closes the connection, unless the reply has been read to its end.

        Args:
            path: Below ``base_url``.
            body: What is posted.
            num_samples: How many it asks for.
            is_paced: Whether what comes may lie unread for a moment, see `Pace`.

        Raises:
            UpstreamFailed: The reply is none, or no stream; the iterator raises it when the connection breaks.
            PromptTooLong: The server says so.
            MalformedStream: By the iterator.
        """
        began_at = asyncio.get_running_loop().time()
        async with self._reply("POST", path, body) as reply:
            if reply.content_type != "text/event-stream":
                text = await _bounded(reply, _MAX_ERROR_BYTES)
                if reply.content_type == "application/json" and '"error"' in text:
                    raise self.failures.of_status(0, reply.headers, text)
                raise UpstreamFailed(
                    f"answers with {reply.content_type!r} where an event stream was asked for: {excerpt(text)}",
                    is_retryable=False,
                )
            with self._pace.streaming(num_samples):
                async with contextlib.aclosing(
                    events_in(reply, self._pace if is_paced else None, began_at=began_at)
                ) as events:
                    yield events

    async def pause(self, attempt: int, error: UpstreamFailed) -> None:
        """Waits before another attempt.

        Raises:
            EngineFailed: There will be none.
        """
        wait_s = self.backoff.wait_s(attempt, error)
        if wait_s is None:
            raise self.failures.engine_failed(await self._explained(error)) from error
        await self._clock.sleep(wait_s)

    async def _explained(self, error: UpstreamFailed) -> UpstreamFailed:
        if error.status != 404:
            return error
        from orchestrator.workers.openai.dialect import served_models

        try:
            names = ", ".join(sorted(str(model.get("id")) for model in served_models(await self.get_json("models"))))
        except (UpstreamFailed, PromptTooLong):
            return error
        return UpstreamFailed(f"{error}; it serves: {names or 'nothing'}", is_retryable=False, status=404)

    @contextlib.asynccontextmanager
    async def _reply(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,  # Any: JSON values
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        session = self._open_session()
        timeout = session.timeout if timeout_s is None else self._timeout(timeout_s)
        data = None if body is None else json.dumps(body).encode()
        headers = None if body is None else _JSON_HEADERS
        try:
            async with session.request(
                method, self._address(path), data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as reply:
                if reply.status != 200:
                    raise self.failures.of_status(reply.status, reply.headers, await _bounded(reply, _MAX_ERROR_BYTES))
                yield reply
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise of_exception(error) from error

    def _address(self, path: str) -> URL:
        known = self._addresses.get(path)
        if known is None:
            known = URL(self.url).origin() / path[1:] if path.startswith("/") else URL(f"{self.url}/{path}")
            self._addresses[path] = known
        return known

    async def _json_of(self, reply: aiohttp.ClientResponse) -> Any:  # Any: JSON value
        text = await _bounded(reply, _MAX_REPLY_BYTES)
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UpstreamFailed(f"answers with something else than JSON: {excerpt(text)}") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            try:
                import aiohttp
            except ImportError as error:
                raise MissingDependency(package="aiohttp", extra="local", purpose="the openai engine") from error
            headers = {"Accept-Encoding": "identity", "User-Agent": "ttc-orchestrator", **self._options.headers}
            if self._options.key:
                headers["Authorization"] = f"Bearer {self._options.key}"
            connector = aiohttp.TCPConnector(limit=self._options.max_connections)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=headers, timeout=self._timeout(), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    def _timeout(self, total_s: float | None = None) -> aiohttp.ClientTimeout:
        import aiohttp

        options = self._options
        return aiohttp.ClientTimeout(
            total=total_s, sock_connect=options.connect_timeout_s, sock_read=options.idle_timeout_s
        )


async def _bounded(reply: aiohttp.ClientResponse, limit_bytes: int) -> str:
    """At most that much of the body, as text."""
    return (await _bytes_of(reply, limit_bytes)).decode("utf-8", "replace")


async def _bytes_of(reply: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """At most that much of the body."""
    parts, length = list[bytes](), 0
    while length < limit_bytes and (part := await reply.content.read(limit_bytes - length)):
        parts.append(part)
        length += len(part)
    return b"".join(parts)
