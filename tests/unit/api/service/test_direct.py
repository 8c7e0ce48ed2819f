"""The short way to an endpoint gives what FastAPI's gives, for good requests and bad ones."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from orchestrator.api.service.app import create_app
from orchestrator.api.service.security.gate import Gate
from orchestrator.api.service.service import Service
from orchestrator.in_process import Orchestrator
from orchestrator.stores import MemoryStore
from orchestrator.testing import ScriptedEngine

GOOD = b'{"model": "ttc/single", "messages": [{"role": "user", "content": "Hi"}], "seed": 1}'
DIRECT, OTHER = "application/json", "application/json; charset=utf-8"


async def answers(body: bytes, content_type: str, *, is_key_required: bool = False) -> tuple[int, Any]:
    store = MemoryStore()
    async with Orchestrator(ScriptedEngine("Hello."), store=store) as ttc, Service(ttc) as service:
        app = create_app(service, gate=Gate(store, is_key_required=is_key_required))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/v1/chat/completions", content=body, headers={"Content-Type": content_type})
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        b"[]",
        b"null",
        b'{"model": ',
        b'{"model": NaN}',
        b'{"model": "ttc/single", "model": "ttc/auto"}',
        GOOD.replace(b"Hi", b"\\ud800"),
        GOOD.replace(b'"user"', b'"nobody"'),
        GOOD.replace(b'"seed": 1', b'"seed": 1.5, "surprise": {}, "n": 1000'),
        GOOD.replace(b"single", b"no_such_policy"),
    ],
)
async def test_both_ways_refuse_in_the_same_words(body: bytes) -> None:
    status, told = await answers(body, DIRECT)
    assert (status, told) == await answers(body, OTHER)
    assert 400 <= status < 500
    assert told["error"]["message"]


async def test_both_ways_reach_the_endpoint() -> None:
    for content_type in (DIRECT, OTHER):
        status, told = await answers(GOOD, content_type)
        assert (status, told["choices"][0]["message"]["content"]) == (200, "Hello.")


@pytest.mark.parametrize("body", [GOOD, b"{}"])
async def test_both_ways_ask_for_a_key_before_they_look_at_what_is_asked(body: bytes) -> None:
    status, told = await answers(body, DIRECT, is_key_required=True)
    assert status == 401
    assert (status, told) == await answers(body, OTHER, is_key_required=True)
