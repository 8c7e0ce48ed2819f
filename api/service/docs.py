"""``/docs``: the page that describes the endpoints, with a policy that lets it load what it is made of and no more."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_ASSETS = "https://cdn.jsdelivr.net"
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json", title=f"{request.app.title}: API", swagger_favicon_url="data:,"
    )
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in _INLINE.findall(bytes(page.body)))
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src {_ASSETS} {hashes}; style-src {_ASSETS} 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


def _digest(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script).digest()).decode()
