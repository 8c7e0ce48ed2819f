"""What describes the endpoints: the OpenAPI document, and ``/docs``, the page that shows it."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from orchestrator.api.service.fields import ALWAYS, WORDS

router = APIRouter(include_in_schema=False)

_ASSETS = "https://cdn.jsdelivr.net"
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page; its policy lets it load what it is made of, and no more."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json", title=f"{request.app.title}: API", swagger_favicon_url="data:,"
    )
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in _INLINE.findall(bytes(page.body)))
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src {_ASSETS} {hashes}; style-src {_ASSETS} 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


def describe(app: FastAPI) -> None:
    """Has the document say which errors any endpoint may give, and not those of FastAPI that are mapped to ours."""

    def document() -> dict[str, Any]:  # Any: JSON values
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's way to extend it


def _document(app: FastAPI) -> dict[str, Any]:  # Any: as above
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
            for status in ALWAYS if path.startswith("/v1/") else ():
                responses.setdefault(str(status), _error(status))
    for name in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(name, None)
    return found


def _error(status: int) -> dict[str, Any]:  # Any: as above
    schema = {"$ref": "#/components/schemas/ErrorView"}
    return {"description": WORDS[status], "content": {"application/json": {"schema": schema}}}


def _digest(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script).digest()).decode()
