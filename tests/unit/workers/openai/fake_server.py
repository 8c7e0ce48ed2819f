"""A small OpenAI-compatible server with a scripted tongue and every bad habit that a test may want."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import web

Body = Mapping[str, Any]
Handler = Callable[[web.Request, Body], "asyncio.Future[web.StreamResponse]"]


def chunk(text: str | None, index: int = 0, **choice: Any) -> dict[str, Any]:
    """A chunk of the chat API."""
    return {"choices": [{"index": index, "delta": {} if text is None else {"content": text}, **choice}]}


def usage(prompt_tokens: int, completion_tokens: int, cached: int = 0) -> dict[str, Any]:
    return {
        "choices": [],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


class FakeServer:
    """Answers chat completions with `words`, one chunk each, unless a test sets `reply`.

    Attributes:
        requests: Bodies, in order.
        headers: Their headers.
        statuses: (status, headers, body) to answer the next requests with.
        disconnects: Number of clients that hung up before the end.
        sent_chunks: Chunks written in all.
        end_s: Time between the last event and the end of a reply.
        peers: Where each generation request came from.
        reply: Says what to stream: async generator of chunks (dicts, or raw bytes).
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.statuses: list[tuple[int, dict[str, str], Any]] = []
        self.disconnects = 0
        self.sent_chunks = 0
        self.words = ["Hello", " wor", "ld", "!"]
        self.owned_by = "someone"
        self.max_model_len: int | None = 4096
        self.honours_n = True
        self.chunk_s = 0.0
        self.content_type = "text/event-stream"
        self.reply: Callable[[Body], AsyncIterator[dict[str, Any] | bytes]] = self.say_words
        self.hung_up = asyncio.Event()
        self.live = 0
        self.peak_live = 0
        self.end_s = 0.0
        self.peers: list[Any] = []
        self._runner: web.AppRunner | None = None
        self.base_url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._embed)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def say_words(self, body: Body) -> AsyncIterator[dict[str, Any] | bytes]:
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 99
        count = body.get("n", 1) if self.honours_n else 1
        words = self.words[:limit]
        reason = "length" if len(self.words) > limit else "stop"
        for word in words:
            for index in range(count):
                yield chunk(word, index)
        for index in range(count):
            yield chunk(None, index, finish_reason=reason)
        extra = 1 if reason == "stop" else 0
        yield usage(11, count * (len(words) + extra), cached=5)

    async def _models(self, request: web.Request) -> web.Response:
        if self.statuses:
            return self._refusal()
        entry: dict[str, Any] = {"id": "toy", "owned_by": self.owned_by}
        if self.max_model_len is not None:
            entry["max_model_len"] = self.max_model_len
        return web.json_response({"object": "list", "data": [entry]})

    def _refusal(self) -> web.Response:
        status, headers, body = self.statuses.pop(0)
        if isinstance(body, str):
            return web.Response(status=status, headers=headers, text=body)
        return web.json_response(body, status=status, headers=headers)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peername"))
        if self.statuses:
            return self._refusal()
        self.live += 1
        self.peak_live = max(self.peak_live, self.live)
        if not body.get("stream"):
            return await self._answer_whole(body)
        response = web.StreamResponse(headers={"Content-Type": self.content_type})
        await response.prepare(request)
        try:
            async for piece in self.reply(body):
                data = piece if isinstance(piece, bytes) else b"data: " + json.dumps(piece).encode() + b"\n\n"
                if data == b"HANG UP":
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(data)
                self.sent_chunks += 1
                if self.chunk_s:
                    await asyncio.sleep(self.chunk_s)
            if self.content_type == "text/event-stream":
                await response.write(b"data: [DONE]\n\n")
                await asyncio.sleep(self.end_s)
        except (ConnectionResetError, asyncio.CancelledError):
            self.disconnects += 1
            self.hung_up.set()
            raise
        finally:
            self.live -= 1
        return response

    async def _answer_whole(self, body: Body) -> web.Response:
        """What would be streamed, put together."""
        choices: dict[int, dict[str, Any]] = {}
        counts: dict[str, Any] = {}
        try:
            async for piece in self.reply(body):
                assert isinstance(piece, dict), "bytes are for streams"
                counts = piece.get("usage") or counts
                for part in piece["choices"]:
                    choice = choices.setdefault(part["index"], {"index": part["index"], "message": {"content": ""}})
                    choice["message"]["content"] += part["delta"].get("content") or ""
                    choice["finish_reason"] = part.get("finish_reason")
                    if part.get("logprobs"):
                        choice.setdefault("logprobs", {"content": []})["content"] += part["logprobs"]["content"]
                self.sent_chunks += 1
                if self.chunk_s:
                    await asyncio.sleep(self.chunk_s)
        except asyncio.CancelledError:
            self.disconnects += 1
            self.hung_up.set()
            raise
        finally:
            self.live -= 1
        return web.json_response({"choices": list(choices.values()), "usage": counts})

    async def _embed(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        if self.statuses:
            return self._refusal()
        data = [{"index": index, "embedding": [3.0, 4.0, float(index)]} for index in range(len(body["input"]))]
        return web.json_response({"data": data[::-1], "usage": {"prompt_tokens": 7 * len(data)}})
