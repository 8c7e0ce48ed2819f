"""Serves the dashboard's files: the page at ``/``, its modules and style sheets below ``/ui/``.

The page is the same for everybody and holds no data, so it needs no API key; what it shows it asks the service for.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Request, Response

router = APIRouter(include_in_schema=False)

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may do: load its own files, speak to its own server, and never make markup or code of a text."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE = "index.html"


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page."""
    return _sent(request, _files()[_PAGE])


@router.api_route("/ui/{name:path}", methods=["GET", "HEAD"])
async def file(request: Request, name: str) -> Response:
    """One of its modules, style sheets or pictures."""
    found = _files().get(name)
    if found is None or name == _PAGE:
        raise HTTPException(404)
    return _sent(request, found)


def _sent(request: Request, found: _File) -> Response:
    headers = {**_HEADERS, "ETag": found.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if found.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


@cache
def _files() -> dict[str, _File]:
    """By name below ``/ui/``: the dashboard's own files, and those it shares with the trace page in ``page/``."""
    package = resources.files("orchestrator.api")
    folders = {"": package / "service" / "dashboard" / "static", "page/": package / "page"}
    return {
        f"{prefix}{item.name}": _file(item.name, item.read_bytes())
        for prefix, folder in folders.items()
        for item in folder.iterdir()
        if _suffix(item.name) in _TYPES and not (prefix and item.name.endswith(".html"))
    }


def _file(name: str, content: bytes) -> _File:
    return _File(content, _TYPES[_suffix(name)], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
