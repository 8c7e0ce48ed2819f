"""The target that speaks the OpenAI protocol: a streamed chat completion for each request, never tried again."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from yarl import URL

from orchestrator.bench.load.target import Part, TargetFailed, TokenCounts
from orchestrator.clock import SystemClock
from orchestrator.errors import InvalidRequest

if TYPE_CHECKING:
    import aiohttp

    from orchestrator.workers.openai.chunks import ReportedUsage

_DONE = "[DONE]"
_OPENAI_HOST = "api.openai.com"
_MAX_ERROR_BYTES = 4096
_SHOWN_CHARS = 200
_KEEP_ALIVE_S = 4.0  # shorter than the 5 s of uvicorn: a connection that the server is about to close is not used
_OWN_FIELDS = ("model", "messages", "stream")


class OpenAITarget:
    """A model behind an OpenAI-compatible server.

    Args:
        url: Up to and with ``/v1``.
        model: As the server calls it.
        key: Sent as a bearer token; empty for none.
        extra_body: Merged into each request; None removes a field.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        extra_body: Mapping[str, Any] | None = None,  # Any: JSON values
    ) -> None:
        self._address = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._key = key
        self._extra_body = extra_body or {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """Model and host."""
        return f"{self._model} at {URL(self._address).authority}"

    def encoded(self, prompt: str, *, max_tokens: int) -> bytes:
        """The body of a request."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._extra_body,
        }
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

    async def exchange(self, body: bytes) -> AsyncGenerator[Part, None]:
        """Posts, and gives the chunks of the reply.

        Raises:
            TargetFailed: The server cannot be reached, refuses, or its reply breaks off.
        """
        import aiohttp

        try:
            async with self._opened().post(self._address, data=body, allow_redirects=False) as reply:
                if reply.status != 200:
                    raise await self._refusal(reply)
                if reply.content_type != "text/event-stream":
                    raise TargetFailed("no_stream", f"answers with {reply.content_type!r}", status=reply.status)
                async for part in self._parts(reply):
                    yield part
        except aiohttp.ClientConnectorError as error:
            raise TargetFailed("refused", self._shown(str(error))) from error
        except (aiohttp.ClientError, OSError) as error:
            raise TargetFailed("broken_stream", self._shown(str(error) or type(error).__name__)) from error

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    async def _parts(self, reply: aiohttp.ClientResponse) -> AsyncIterator[Part]:
        from orchestrator.workers.openai.chunks import ServerReportedError, parse_chunk
        from orchestrator.workers.openai.sse import MalformedStream, events_of

        is_finished = False
        try:
            async for data in events_of(reply.content.iter_any()):
                if data.strip() == _DONE:
                    break
                chunk = parse_chunk(data)
                is_finished = is_finished or any(choice.finish_reason for choice in chunk.choices)
                yield Part(
                    any(choice.text or choice.has_hidden_text for choice in chunk.choices),
                    _counts(chunk.usage),
                )
        except MalformedStream as error:
            raise TargetFailed("broken_stream", self._shown(str(error)), status=reply.status) from error
        except ServerReportedError as error:
            raise TargetFailed("server_error", self._shown(str(error)), status=reply.status) from error
        if not is_finished:
            raise TargetFailed("broken_stream", "the stream ended in the middle of the reply", status=reply.status)

    async def _refusal(self, reply: aiohttp.ClientResponse) -> TargetFailed:
        text = (await reply.content.read(_MAX_ERROR_BYTES)).decode("utf-8", "replace")
        kind = "http_429" if reply.status == 429 else f"http_{reply.status // 100}xx"
        return TargetFailed(kind, self._shown(f"HTTP {reply.status}: {text}"), status=reply.status)

    def _shown(self, text: str) -> str:
        text = " ".join((text.replace(self._key, "***") if self._key else text).split())
        return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            headers = {
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "ttc-orchestrator",
            }
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),  # 0: no limit, no queue
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the sender has its own
            )
        return self._session


def _counts(usage: ReportedUsage | None) -> TokenCounts | None:
    if usage is None:
        return None
    return TokenCounts(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


async def open_target(
    url: str,
    model: str | None,
    *,
    extra_body: Mapping[str, Any] | None = None,  # Any: JSON values
) -> OpenAITarget:
    """A target that answers: asks it once what it serves before any load is sent.

    The key comes from ``TTC_BENCH_API_KEY``. ``OPENAI_API_KEY`` is used for OpenAI's own host, and sent nowhere else.

    Raises:
        InvalidRequest: The address or the extra body cannot be used, or no model is named and the server has several.
        EngineFailed: The server cannot be reached, or refuses the key.
    """
    from orchestrator.workers.openai.dialect import served_models
    from orchestrator.workers.openai.failures import PromptTooLong, UpstreamFailed
    from orchestrator.workers.openai.options import checked_options
    from orchestrator.workers.openai.transport import Transport

    key = _key_for(_checked_address(url))
    _check_extra_body(extra_body or {})
    options = {"base_url": url, "model": model or "", "max_retries": 0, **({"api_key": key} if key else {})}
    transport = Transport(checked_options(options), clock=SystemClock())
    models: Any = None  # Any: JSON value
    try:
        models = await transport.get_json("models")
    except PromptTooLong:
        pass
    except UpstreamFailed as error:
        if error.status not in {404, 405, 501}:  # not every server lists its models
            raise transport.failures.engine_failed(error) from error
    finally:
        await transport.aclose()
    names = [str(entry.get("id")) for entry in served_models(models)]
    if model is None and len(names) != 1:
        listing = ", ".join(sorted(names)) or "nothing it tells of"
        raise InvalidRequest(f"name the model with --model; the server has: {listing}", field="model")
    return OpenAITarget(url, model or names[0], key=key, extra_body=extra_body)


def _checked_address(url: str) -> URL:
    try:
        address = URL(url)
    except ValueError:
        address = URL()
    if address.user or address.password:
        raise InvalidRequest("--url must not hold credentials; put the key into TTC_BENCH_API_KEY", field="url")
    if address.scheme not in {"http", "https"} or not address.host:
        raise InvalidRequest(
            f"--url {url!r} is no http address; write it up to the version, for instance http://127.0.0.1:8000/v1",
            field="url",
            value=url,
        )
    return address


def _key_for(address: URL) -> str:
    key = os.environ.get("TTC_BENCH_API_KEY", "").strip()
    if not key and address.host == _OPENAI_HOST:
        key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidRequest("the key in TTC_BENCH_API_KEY holds characters that no key has", field="api_key")
    return key


def _check_extra_body(extra_body: Mapping[str, object]) -> None:
    for name in _OWN_FIELDS:
        if name in extra_body:
            raise InvalidRequest(f"--extra-body must not set {name!r}, which the load test sets itself", field=name)
