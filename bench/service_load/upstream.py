"""A model server that answers at once: ``python -m orchestrator.bench.service_load.upstream PORT``.

It speaks as much of the OpenAI API as chats need, ``n`` included, whole or streamed word by word, and does little more
than write, since it shares its cores with what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from functools import lru_cache
from typing import Any

MODEL = "upstream"
REPLIES = (
    "First 4 * 2 = 8. Then 3 + 8 = 11. The answer is \\boxed{11}",
    "Products come first, so 3 + 8, which makes 11. The answer is \\boxed{11}",
    "3 + 4 = 7 and 7 * 2 = 14. The answer is \\boxed{14}",
)
"""What samples say, in turn; 11 wins any vote of more than two."""
_PROMPT_TOKENS = 20
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


def words_of(reply: str) -> list[str]:
    """A reply as its tokens: words with the space before them."""
    return re.findall(r"\s?\S+", reply)


@lru_cache(maxsize=64)
def whole(first: int, n: int) -> bytes:
    """The body of a completion with ``n`` choices, beginning with the reply of this number."""
    replies = [REPLIES[(first + index) % len(REPLIES)] for index in range(n)]
    choices = [
        {"index": index, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        for index, reply in enumerate(replies)
    ]
    return json.dumps(_object("chat.completion", choices) | {"usage": _usage(replies)}).encode()


@lru_cache(maxsize=64)
def streamed(first: int, n: int) -> bytes:
    """The same as server-sent events, one a word, the choices in turn as when they are decoded together."""
    replies = [REPLIES[(first + index) % len(REPLIES)] for index in range(n)]
    texts = [words_of(reply) for reply in replies]
    chunks: list[dict[str, Any]] = []
    for step in range(1 + max(map(len, texts))):
        for index, text in enumerate(texts):
            if step <= len(text):
                delta = {"content": text[step]} if step < len(text) else {}
                finish = None if step < len(text) else "stop"
                chunks.append(_object("chat.completion.chunk", [_part(index, delta, finish)]))
    chunks.append(_object("chat.completion.chunk", []) | {"usage": _usage(replies)})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def _part(index: int, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def _object(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "c-1", "object": kind, "created": 1, "model": MODEL, "choices": choices}


def _usage(replies: list[str]) -> dict[str, int]:
    output = sum(len(words_of(reply)) + 1 for reply in replies)
    return {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": output, "total_tokens": _PROMPT_TOKENS + output}


class Upstream(asyncio.Protocol):
    """One connection; requests on it come one after another."""

    num_samples = 0
    """Asked for, over all connections; ``GET /samples`` tells."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._read = b""

    def data_received(self, data: bytes) -> None:
        """Answers every request that is there."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head, length = self._read[:end], _LENGTH.search(self._read[:end])
            size = end + 4 + (int(length[1]) if length is not None else 0)
            if len(self._read) < size:
                return
            body, self._read = self._read[end + 4 : size], self._read[size:]
            self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET /samples"):
            return _response(b"application/json", json.dumps(Upstream.num_samples).encode())
        if not head.startswith(b"POST"):
            models = {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 100_000}]}
            return _response(b"application/json", json.dumps(models).encode())
        asked = json.loads(body)
        first, n = Upstream.num_samples % len(REPLIES), asked.get("n", 1)
        Upstream.num_samples += n
        if asked.get("stream"):
            return _response(b"text/event-stream", streamed(first, n))
        return _response(b"application/json", whole(first, n))


def _response(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


async def serve(port: int) -> None:
    """Listens until it is killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
