"""What is refused before an endpoint sees it: bodies that are too large, too slow or too deep, and requests that a
browser sends on behalf of somebody else's page; and the headers that every response gets.
"""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.service.errors import error_response
from orchestrator.api.service.security.connections import MAX_HEADER_BYTES
from orchestrator.api.service.security.gate import Gate, is_loopback
from orchestrator.api.service.security.json_limits import check_json
from orchestrator.config import ServiceSettings
from orchestrator.errors import Forbidden, InvalidRequest, TooLarge, TooSlow, TtcError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

_PROBES = frozenset({"/healthz", "/readyz"})
_REST_S = 5.0
_REST_FACTOR = 4
"""The rest of a body that is too large is thrown away for so long, up to so many times what is accepted."""
_OWN_PAGE = frozenset({"same-origin", "none"})
_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Of responses that say nothing else; pages have policies of their own."""


def secure(app: FastAPI, gate: Gate, settings: ServiceSettings) -> None:
    """Puts the door before an application; what is added to it later goes before the door.

    Args:
        app: The application.
        gate: Knows whether the service is open.
        settings: Limits, hosts and origins.
    """
    app.add_middleware(Door, gate=gate, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )


class Door:
    """ASGI middleware; see the module.

    Args:
        app: What comes after it.
        gate: Knows whether the service is open: without keys, for this machine only.
        settings: Limits, hosts and origins.
    """

    def __init__(self, app: ASGIApp, *, gate: Gate, settings: ServiceSettings) -> None:
        self._app = app
        self._gate = gate
        self._settings = settings
        self._hosts = frozenset(name.lower() for name in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses the request, or hands it on with a body that has been read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        careful_send = _with_headers(send)
        is_clear = False  # where the request ends
        try:
            headers = Headers(scope=scope)
            _check_head(scope, headers)
            is_clear = True
            await self._check_source(scope, headers)
            receive = await self._checked_body(headers, receive)
        except _Left:
            return
        except TtcError as error:
            response = error_response(error)
            if isinstance(error, TooLarge | TooSlow) or not is_clear:
                response.headers["Connection"] = "close"
            if isinstance(error, TooLarge):
                careful_send = _after_the_rest(
                    careful_send, receive, limit=_REST_FACTOR * self._settings.max_body_bytes
                )
            await response(scope, receive, careful_send)
            return
        await self._app(scope, receive, careful_send)

    async def _check_source(self, scope: Scope, headers: Headers) -> None:
        """Refuses requests from where none may come.

        An open service trusts whoever reaches it, so it must not be reached through a browser: neither under a name
        of somebody else's that resolves to this machine, nor from somebody else's page.
        """
        host = _name_of(headers.get("host", ""))
        if self._hosts and host not in self._hosts and scope["path"] not in _PROBES:
            raise Forbidden(f"this service does not answer to the name {host!r}", host=host)
        if not await self._gate.is_open():
            return
        if host and not is_loopback(host):
            raise Forbidden(
                f"without API keys this service answers to localhost only, not to {host!r}; make a key with: "
                "ttc keys create",
                host=host,
            )
        if (peer := scope.get("client")) is not None and _is_elsewhere(peer[0]):
            raise Forbidden("without API keys this service answers to this machine only", peer=peer[0])
        if scope["method"] not in SAFE_METHODS:
            self._check_page(headers)

    def _check_page(self, headers: Headers) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        allowed = self._settings.allowed_origins
        if origin is not None and (origin in allowed or "*" in allowed):
            return
        is_foreign = origin is not None and _place_of(origin) != headers.get("host", "").lower()
        if is_foreign or site not in _OWN_PAGE:
            raise Forbidden(f"pages from {origin or 'elsewhere'} may not use this service (allowed_origins)")

    async def _checked_body(self, headers: Headers, receive: Receive) -> Receive:
        """Reads the whole body, within its limits; what the application receives is what was read.

        Raises:
            TooLarge: It has more bytes than are accepted, or says that it will.
            TooSlow: It has not arrived in time.
            InvalidRequest: It is JSON of a kind that is not parsed, or its length is no number.
        """
        limit = self._settings.max_body_bytes
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            return receive
        if length is not None and not (length.isascii() and length.isdigit()):
            raise InvalidRequest("Content-Length is no number", field="Content-Length", value=length)
        if length is not None and int(length[:20]) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                body = await _read(receive, limit)
        except TimeoutError:
            raise TooSlow(
                f"the body of the request did not arrive within {self._settings.body_timeout_s:g} s"
            ) from None
        check_json(body, max_depth=self._settings.max_json_depth, max_items=self._settings.max_json_items)
        return _replay(body, receive)


def _check_head(scope: Scope, headers: Headers) -> None:
    """Refuses what servers and proxies read differently, and more than a server has to carry about.

    Raises:
        InvalidRequest: The headers are too large, say twice how long the body is, or say that it is compressed.
    """
    num_bytes = len(scope["query_string"]) + len(scope["path"])
    num_bytes += sum(len(name) + len(value) for name, value in scope["headers"])
    if num_bytes > MAX_HEADER_BYTES:
        raise InvalidRequest(
            f"address and headers of a request may have {MAX_HEADER_BYTES} bytes at most", field="headers"
        )
    if "transfer-encoding" in headers and "content-length" in headers:
        raise InvalidRequest("send Content-Length or Transfer-Encoding, not both", field="Transfer-Encoding")
    if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
        raise InvalidRequest(f"bodies are read as they are, not {encoding!r}", field="Content-Encoding", value=encoding)


class _Left(Exception):  # not an error: there is nobody to answer
    """The client has gone."""


async def _read(receive: Receive, limit: int, *, is_kept: bool = True) -> bytes:
    chunks: list[bytes] = []
    num_bytes, is_complete = 0, False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Left
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if is_kept:
            chunks.append(chunk)
        if num_bytes > limit:
            raise _too_large(limit)
        is_complete = not message.get("more_body", False)
    return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replayed() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return replayed


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = [(name, value) for name, value in _HEADERS if name not in present]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return send_with_headers


def _after_the_rest(send: Send, receive: Receive, *, limit: int) -> Send:
    """Ends a response only when the rest of the request has come, or too much of it, or too slowly.

    A connection that is closed while its other side still writes is reset, and the response is lost on the way.
    """

    async def send_slowly(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with contextlib.suppress(TimeoutError, TooLarge, _Left):
            async with asyncio.timeout(_REST_S):
                await _read(receive, limit, is_kept=False)
        await send({"type": "http.response.body", "body": b""})

    return send_slowly


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body of a request may have {limit} bytes at most", max_bytes=limit)


def _place_of(origin: str) -> str | None:
    """Host and port of an origin; None if it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """The name without the port: ``[::1]:8000`` is ``[::1]``."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def _is_elsewhere(peer: str) -> bool:
    """Whether it is an address of another machine; sockets of the file system and test clients have no address."""
    return any(mark in peer for mark in ".:") and not is_loopback(peer)
