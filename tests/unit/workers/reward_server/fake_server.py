"""A server with a process reward model in three disguises, and every bad habit that a test may want."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from orchestrator.testing.scripts import share

Json = dict[str, Any]
TOKEN = re.compile(r" ки|<extra_0>|\n|\w+| ?[^\w\s]| ")


class FakeRewards:
    """Rewards a text by a number drawn from its letters and digits, whatever way it is asked.

    Attributes:
        requests: Bodies, in order; `headers` are theirs.
        statuses: (status, headers, body) to answer the next requests with.
        change: What becomes of an answer before it is sent.
        owned_by, max_model_len, models: What it says of itself.
        classes: What it makes of a probability in a pooled row.
        knows_ids: Whether it gives the prompt's ids with ``prompt_logprobs``.
        counts: Whether it says what it counted.
        hangs: Whether it never answers.
    """

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.headers: list[Mapping[str, str]] = []
        self.statuses: list[tuple[int, dict[str, str], Any]] = []
        self.change: Callable[[Json], Any] = lambda reply: reply
        self.owned_by = "vllm"
        self.max_model_len: int | None = 4096
        self.models = ["prm"]
        self.classes: Callable[[float], Any] = lambda good: [1 - good, good]
        self.knows_ids = True
        self.counts = True
        self.hangs = False
        self.url = ""
        self._seen: list[list[str]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/pooling", self._answering(self.pooled))
        app.router.add_post("/v1/completions", self._answering(self.completed))
        app.router.add_post("/score/steps", self._answering(self.scored))
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def reward(self, text: str) -> float:
        """In [0.05, 0.95], of a text with or without tags."""
        return 0.05 + 0.9 * share(0, "reward", re.sub(r"ки|<extra_0>|\W", "", text))

    def pooled(self, body: Json) -> Json:
        text = body["input"] if "input" in body else body["messages"][-1]["content"]
        tokens = self.tokens(text)
        rows = [self.classes(self.reward(text)) for text in _up_to_each(tokens, "<extra_0>")]
        return {"data": [{"index": 0, "object": "pooling", "data": rows}], **self.usage(tokens, "pooling")}

    def scored(self, body: Json) -> Json:
        texts = ["".join(body["steps"][: end + 1]) for end in range(body["num_known"], len(body["steps"]))]
        return {"rewards": [self.reward(text) for text in texts], **self.usage(self.tokens("".join(body["steps"])))}

    def completed(self, body: Json) -> Json:
        tokens = self.tokens(body["prompt"])
        after = [self.after(tokens[: place + 1]) for place in range(len(tokens))]
        top = body["logprobs"]
        tokens_shown, rows = [next(iter(after[-1]))], after[-1:]
        if body.get("echo"):
            tokens_shown, rows = [*tokens, *tokens_shown], [None, *after]  # type: ignore[list-item]  # as servers do
        logprobs = {"tokens": tokens_shown, "top_logprobs": [row and dict(list(row.items())[:top]) for row in rows]}
        choice: Json = {"index": 0, "text": "+", "logprobs": logprobs}
        if "prompt_logprobs" in body:
            ids = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
            listed = [None, *(self.by_id(row, token) for row, token in zip(after, tokens[1:], strict=False))]
            choice |= {"prompt_logprobs": listed}
            if self.knows_ids and body.get("return_token_ids"):
                choice |= {"prompt_token_ids": [ids[token] for token in tokens]}
        return {"choices": [choice], **self.usage(tokens, output_tokens=1)}

    def after(self, tokens: Sequence[str]) -> dict[str, float]:
        """Log probabilities of the token that follows; after a tag, nearly all on + and -."""
        good = self.reward("".join(tokens))
        if tokens[-1] != " ки":
            return {"the": math.log(0.4), "a": math.log(0.3), " +": math.log(0.1)}
        likely = {" +": math.log(0.99 * good), " -": math.log(0.99 * (1 - good)), "\n": -6.0, "ки": -8.0}
        return dict(sorted(likely.items(), key=lambda pair: -pair[1]))

    def by_id(self, row: dict[str, float], token: str) -> Json:
        """As vLLM does: the prompt's own token among the likeliest."""
        shown = {token: row.get(token, -12.0), **row}
        return {
            str(place): {"logprob": value, "rank": place + 1, "decoded_token": text}
            for place, (text, value) in enumerate(shown.items())
        }

    def tokens(self, text: str) -> list[str]:
        return TOKEN.findall(text)

    def usage(self, tokens: list[str], kind: str = "", *, output_tokens: int = 0) -> Json:
        if not self.counts:
            return {}
        cached = 0 if kind == "pooling" else max((_num_common(tokens, seen) for seen in self._seen), default=0)
        self._seen.append(tokens)
        details = {"cached_tokens": min(cached, max(0, len(tokens) - 1))}
        return {
            "usage": {
                "prompt_tokens": len(tokens),
                "completion_tokens": output_tokens,
                "prompt_tokens_details": details,
            }
        }

    async def _models(self, request: web.Request) -> web.Response:
        if self.statuses:
            return self._refusal()
        length = {} if self.max_model_len is None else {"max_model_len": self.max_model_len}
        return web.json_response({"data": [{"id": name, "owned_by": self.owned_by, **length} for name in self.models]})

    def _answering(self, answer: Callable[[Json], Json]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            body = await request.json()
            self.requests.append(body)
            self.headers.append(dict(request.headers))
            if self.hangs:
                await asyncio.Event().wait()
            if self.statuses:
                return self._refusal()
            reply = self.change(answer(body))
            return web.Response(text=reply) if isinstance(reply, str) else web.json_response(reply)

        return handle

    def _refusal(self) -> web.Response:
        status, headers, body = self.statuses.pop(0)
        if isinstance(body, str):
            return web.Response(status=status, headers=headers, text=body)
        return web.json_response(body, status=status, headers=headers)


def _up_to_each(tokens: Sequence[str], tag: str) -> list[str]:
    return ["".join(tokens[: place + 1]) for place, token in enumerate(tokens) if token == tag]


def _num_common(left: Sequence[str], right: Sequence[str]) -> int:
    pairs = zip(left, right, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))
