"""What is refused before an endpoint sees it: bodies that are too large, too slow or too deep, and requests that a
browser sends on behalf of somebody else's page; and the headers that every response gets.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.service.errors import error_response
from orchestrator.api.service.security.gate import Gate, is_loopback
from orchestrator.api.service.security.json_limits import check_json
from orchestrator.config import ServiceSettings
from orchestrator.errors import Forbidden, InvalidRequest, TooLarge, TooSlow, TtcError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

_DOCS = {
    "/docs": b"default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; connect-src 'self'; "
    b"style-src https://cdn.jsdelivr.net; img-src https://fastapi.tiangolo.com data:; frame-ancestors 'none'; "
    b"base-uri 'none'; form-action 'none'"
}
"""The framework's page of the API loads its parts from elsewhere; it shows nothing but the API's description."""
_PROBES = frozenset({"/healthz", "/readyz"})
_OWN_PAGE = frozenset({"same-origin", "none"})
_POLICY = b"content-security-policy"
_NO_PAGE = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Of responses that say nothing else; the dashboard has a policy of its own."""


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
        careful_send = _with_headers(send, policy=_DOCS.get(scope["path"], _NO_PAGE))
        try:
            headers = Headers(scope=scope)
            await self._check_source(scope, headers)
            receive = await self._checked_body(headers, receive)
        except _Left:
            return
        except TtcError as error:
            response = error_response(error)
            if isinstance(error, TooLarge | TooSlow):
                response.headers["Connection"] = "close"  # the rest of the body is not read
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
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
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


class _Left(Exception):  # not an error: there is nobody to answer
    """The client has gone."""


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    num_bytes, is_complete = 0, False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Left
        chunks.append(message.get("body", b""))
        num_bytes += len(chunks[-1])
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


def _with_headers(send: Send, *, policy: bytes) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = [(name, value) for name, value in (*_HEADERS, (_POLICY, policy)) if name not in present]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return send_with_headers


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body of a request may have {limit} bytes at most", max_bytes=limit)


def _name_of(host: str) -> str:
    """The name without the port: ``[::1]:8000`` is ``[::1]``."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def _is_elsewhere(peer: str) -> bool:
    """Whether it is an address of another machine; sockets of the file system and test clients have no address."""
    return any(mark in peer for mark in ".:") and not is_loopback(peer)
