"""A server for load tests: streams chat completions with known delays, and fails as requests are told to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import web

FIRST_S = 0.1
CHUNK_S = 0.02


class LoadServer:
    """Listens in a thread of its own. ``behaviour`` in the body says what a request gets: ``ok`` without it.

    Attributes:
        behaviours: What requests get in turn, where the body does not say.
        arrivals: When each request came, by `time.monotonic`.
        bodies: What they said.
        keys: Their keys.
        hung_up: Requests whose client left before the end.
    """

    def __init__(self, *behaviours: str) -> None:
        self.behaviours = behaviours or ("ok",)
        self.arrivals: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: Counter[str | None] = Counter()
        self.hung_up = 0
        self.url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> LoadServer:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listens no more; safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(30)

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "toy"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.arrivals.append(time.monotonic())
        self.keys[request.headers.get("Authorization")] += 1
        body = await request.json()
        behaviour = self.behaviours[len(self.bodies) % len(self.behaviours)]
        self.bodies.append(body)
        if behaviour.isdigit():
            return web.json_response({"error": {"message": "as told"}}, status=int(behaviour))
        if behaviour == "no_stream":
            return web.json_response({"choices": []})
        try:
            return await self._stream(request, body, behaviour)
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up += 1
            raise

    async def _stream(self, request: web.Request, body: Mapping[str, Any], behaviour: str) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await _send(reply, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(3600 if behaviour == "hang" else FIRST_S)
        for number in range(body["max_tokens"]):
            if number:
                await asyncio.sleep(CHUNK_S)
            if number == 1 and behaviour == "broken":
                assert request.transport is not None
                request.transport.abort()
                return reply
            if number == 1 and behaviour == "error":
                await _send(reply, {"error": {"message": "out of memory"}})
                return reply
            if number == 1 and behaviour == "early":
                return reply
            await _send(reply, {"choices": [{"index": 0, "delta": {"content": " word"}}]})
        await _send(reply, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        if behaviour != "uncounted":
            counts = {"prompt_tokens": 9, "completion_tokens": body["max_tokens"]}
            await _send(reply, {"choices": [], "usage": counts | {"prompt_tokens_details": {"cached_tokens": 4}}})
        await reply.write(b"data: [DONE]\n\n")
        return reply


async def _send(reply: web.StreamResponse, value: Mapping[str, Any]) -> None:
    await reply.write(b"data: " + json.dumps(value).encode() + b"\n\n")
