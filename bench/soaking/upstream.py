"""A model server that keeps a log of its own: ``python -m orchestrator.bench.soaking.upstream PORT``.

It speaks the OpenAI API, streams one token a chunk, and notes for each call when it began, when each token was written,
and when its client had gone. Its clock is `time.time`, as the harness runs on the same machine. ``GET /log`` gives all
calls. A problem says which job it belongs to: ``[job 17]``.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

MODEL = "upstream"
TOKEN_S = 0.02
_CONTEXT = 100_000
_FEWEST, _MOST = 15, 70
_TAG = re.compile(r"\[job (\d+)\]")


@dataclass(slots=True)
class CallLog:
    """One request for a completion.

    Attributes:
        job: Number of the job.
        began_at: When the request had been read.
        token_times: When each token was written; the end-of-turn token has no text and no time.
        left_at: When the client was seen to have gone; None if the reply was written to its end.
        ended_at: When it was over, in either way; None while it goes on.
    """

    job: int
    began_at: float
    token_times: list[float] = field(default_factory=list)
    left_at: float | None = None
    ended_at: float | None = None

    @property
    def billed_tokens(self) -> int:
        """What the usage in its last chunk says, or would say of a reply that was cut off."""
        return len(self.token_times) + (self.ended_at is not None and self.left_at is None)


class Upstream:
    """The server.

    Args:
        token_s: Seconds between tokens.
    """

    def __init__(self, *, token_s: float = TOKEN_S) -> None:
        self._token_s = token_s
        self._calls: list[CallLog] = []

    def app(self) -> web.Application:
        """Its routes."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/log", self._log)
        app.router.add_post("/v1/chat/completions", self._complete)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "max_model_len": _CONTEXT}]})

    async def _log(self, _: web.Request) -> web.Response:
        return web.json_response([asdict(call) for call in self._calls])

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        began_at = time.time()
        body = await request.json()
        tag = _TAG.search(body["messages"][-1]["content"])
        call = CallLog(int(tag[1]) if tag is not None else -1, began_at)
        self._calls.append(call)
        try:
            return await self._stream(request, body, call)
        except (asyncio.CancelledError, ConnectionResetError):
            call.left_at = call.ended_at = time.time()
            raise

    async def _stream(self, request: web.Request, body: dict[str, Any], call: CallLog) -> web.StreamResponse:
        words = _reply(body.get("seed"), call.job)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for word in words[: body.get("max_tokens", _CONTEXT)]:
            await asyncio.sleep(self._token_s)
            call.token_times.append(time.time())
            await _write(reply, {"choices": [{"index": 0, "delta": {"content": word}}]})
        await _write(reply, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        counts = {"prompt_tokens": 20, "completion_tokens": len(call.token_times) + 1}
        await _write(reply, {"choices": [], "usage": counts})
        await reply.write(b"data: [DONE]\n\n")
        call.ended_at = time.time()
        return reply


def _reply(seed: object, job: int) -> list[str]:
    """Words that end with one of a few answers, so that a vote takes a while to be decided."""
    rng = random.Random(f"{seed} {job}")
    words = [f"word{rng.randrange(1000)} " for _ in range(rng.randint(_FEWEST, _MOST))]
    return [*words, "\\boxed{", str(rng.randrange(3)), "}"]


async def _write(reply: web.StreamResponse, value: dict[str, Any]) -> None:
    await reply.write(b"data: " + json.dumps(value).encode() + b"\n\n")


async def serve(port: int) -> None:
    """Listens until it is killed."""
    runner = web.AppRunner(Upstream().app(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
