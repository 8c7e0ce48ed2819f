"""Responses as events: created, the text as soon as it is sure, its items, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from orchestrator.api.service.errors import error_body
from orchestrator.api.service.openai.chat_reply import logprobs_of
from orchestrator.api.service.openai.live_text import Piece
from orchestrator.api.service.openai.planning import Plan
from orchestrator.api.service.openai.progress import Progress
from orchestrator.api.service.openai.response_reply import Stored, message_item, output_of, response, text_part
from orchestrator.api.service.openai.watching import Watch
from orchestrator.api.service.streams import sse_block, sse_comment
from orchestrator.errors import TtcError
from orchestrator.events import Event

Json = dict[str, Any]  # Any: JSON values

CHUNK_CHARS = 256
"""Text that is known as a whole is sent in pieces of this length."""


class ResponseStream:
    """The events of one response.

    Args:
        plan: What was asked for.
        known: Gives what is known of the response when its job has started, and again when it has ended.
    """

    def __init__(self, plan: Plan, known: Callable[[Watch], Awaitable[Stored]]) -> None:
        self._plan = plan
        self._known = known
        self._watch = Watch(plan)
        self._progress = Progress()
        self._number = -1
        self._has_item = False

    async def blocks(self, events: AsyncIterator[Event | None]) -> AsyncIterator[str]:
        """Everything that is sent, as server-sent events; None among the events is a time of silence."""
        try:
            async for event in events:
                if event is None:
                    yield sse_comment("still working")
                    continue
                shown = self._watch.take(event)
                if event.kind == "started":
                    begun = response(await self._known(self._watch))
                    yield self._block("created", response=begun)
                    yield self._block("in_progress", response=begun)
                for _, piece in shown:
                    for block in self._more(piece):
                        yield block
                if not self._plan.streams_live and (line := self._progress.line(event)) is not None:
                    yield sse_comment(line)
            _ = self._watch.ended
            known = await self._known(self._watch)
            for block in self._ending(known):
                yield block
        except TtcError as error:
            yield self._failed(error)

    def _more(self, piece: Piece) -> Iterator[str]:
        if not self._has_item:
            self._has_item = True
            item = message_item(self._watch.job_id, [], status="in_progress")
            yield self._block("output_item.added", output_index=0, item=item)
            yield self._block("content_part.added", **self._place(), part=text_part(""))
        logprobs = self._logprobs(piece.logprobs)
        yield self._block("output_text.delta", **self._place(), delta=piece.text, logprobs=logprobs)

    def _ending(self, known: Stored) -> Iterator[str]:
        logprobs = shaped_logprobs(self._watch, self._plan)
        items = output_of(known, logprobs)
        for place, item in enumerate(items):
            yield from self._message(place, item, known) if item["type"] == "message" else self._call(place, item)
        final = response(known, logprobs=logprobs)
        yield self._block("incomplete" if final["status"] == "cancelled" else final["status"], response=final)

    def _message(self, place: int, item: Json, known: Stored) -> Iterator[str]:
        text = known.choices[0].text
        piece = self._watch.rest(0, text)
        logprobs = piece.logprobs
        starts = range(0, len(piece.text), CHUNK_CHARS) if piece.text or self._has_item else [0]
        for start in starts:
            yield from self._more(Piece(piece.text[start : start + CHUNK_CHARS], logprobs))
            logprobs = []
        part = item["content"][0]
        yield self._block("output_text.done", **self._place(), text=text, logprobs=part["logprobs"])
        yield self._block("content_part.done", **self._place(), part=part)
        yield self._block("output_item.done", output_index=place, item=item)

    def _call(self, place: int, item: Json) -> Iterator[str]:
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._block("output_item.added", output_index=place, item=begun)
        where: Json = {"item_id": item["id"], "output_index": place}
        yield self._block("function_call_arguments.delta", **where, delta=item["arguments"])
        yield self._block("function_call_arguments.done", **where, arguments=item["arguments"], name=item["name"])
        yield self._block("output_item.done", output_index=place, item=item)

    def _failed(self, error: TtcError) -> str:
        return self._numbered("error", {**error_body(error), "code": error.code, "message": str(error), "param": None})

    def _logprobs(self, entries: list[Json]) -> list[Json]:
        return _content(logprobs_of(entries, self._plan))

    def _place(self) -> Json:
        return {"item_id": f"msg_{self._watch.job_id}", "output_index": 0, "content_index": 0}

    def _block(self, kind: str, **data: Any) -> str:  # Any: JSON values
        return self._numbered(f"response.{kind}", data)

    def _numbered(self, kind: str, data: Json) -> str:
        self._number += 1
        return sse_block({"type": kind, "sequence_number": self._number, **data}, event=kind)


def shaped_logprobs(watch: Watch, plan: Plan) -> list[Json]:
    """Of the whole text, in OpenAI's shape; none where they were not asked for."""
    return _content(logprobs_of(watch.logprobs[0] if watch.logprobs else [], plan))


def _content(shaped: Json | None) -> list[Json]:
    return [] if shaped is None else shaped["content"]
