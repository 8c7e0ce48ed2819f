"""Chat completions as chunks: role first, text as soon as it is sure, reasons, usage, and errors in mid-stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from orchestrator.api.service.errors import error_body
from orchestrator.api.service.openai.chat_reply import completion_id, logprobs_of, rank_of, told_of, tool_calls_of
from orchestrator.api.service.openai.planning import Plan
from orchestrator.api.service.openai.progress import Progress
from orchestrator.api.service.openai.replies import Choice, usage_of
from orchestrator.api.service.openai.running import shown_choices
from orchestrator.api.service.openai.sse import DONE
from orchestrator.api.service.openai.watching import Watch
from orchestrator.api.service.streams import sse_block, sse_comment
from orchestrator.errors import TtcError
from orchestrator.events import Event
from orchestrator.isolation import KillablePool
from orchestrator.job import Result

Json = dict[str, Any]  # Any: JSON values

CHUNK_CHARS = 256
"""Text that is known as a whole is sent in pieces of this length."""


class ChatStream:
    """The chunks of one completion.

    Args:
        plan: What was asked for.
        created: Seconds since the epoch.
        includes_usage: Whether the last chunk tells the usage.
        pool: Where replies are held against schemas.
    """

    def __init__(self, plan: Plan, *, created: int, includes_usage: bool, pool: KillablePool) -> None:
        self._plan = plan
        self._pool = pool
        self._created = created
        self._includes_usage = includes_usage
        self._watch = Watch(plan)
        self._progress = Progress()
        self._begun: set[int] = set()

    async def blocks(self, events: AsyncIterator[Event | None]) -> AsyncIterator[str]:
        """Everything that is sent, as server-sent events; None among the events is a time of silence."""
        try:
            async for event in events:
                if event is None:
                    yield sse_comment("still working")
                    continue
                for block in self._of(event):
                    yield block
            result = self._watch.ended
            choices = await shown_choices(result, self._plan, self._pool)
            for block in self._ending(result, choices):
                yield block
        except TtcError as error:
            yield sse_block(error_body(error))
        yield DONE

    def _of(self, event: Event) -> Iterator[str]:
        shown = self._watch.take(event)
        if event.kind == "started":
            yield self._chunk(0, {"role": "assistant", "content": ""})
            self._begun.add(0)
        for index, piece in shown:
            yield from self._text(index, piece.text, piece.logprobs)
        if not self._plan.streams_live and (line := self._progress.line(event)) is not None:
            yield self._told_progress(line)

    def _told_progress(self, line: str) -> str:
        if self._plan.wish.ttc.progress == "comments":
            return sse_comment(line)
        return self._chunk(0, {"reasoning_content": line + "\n"})

    def _ending(self, result: Result, choices: list[Choice]) -> Iterator[str]:
        for index, choice in enumerate(choices):
            yield from self._rest(index, choice)
        for index, choice in enumerate(choices):
            extra: Json = {"ttc": told_of(result, self._plan)} if index == 0 else {}
            yield self._chunk(index, {}, finish_reason=choice.finish, rank=rank_of(choice), **extra)
        if self._includes_usage:
            yield sse_block(self._frame([], usage=usage_of(result, choices)))

    def _rest(self, index: int, choice: Choice) -> Iterator[str]:
        piece = self._watch.rest(index, choice.text)
        logprobs = piece.logprobs
        for start in range(0, len(piece.text), CHUNK_CHARS):
            yield from self._text(index, piece.text[start : start + CHUNK_CHARS], logprobs)
            logprobs = []
        if choice.tool_calls:
            calls = [{"index": at, **call} for at, call in enumerate(tool_calls_of(choice.tool_calls))]
            yield from self._delta(index, {"tool_calls": calls})

    def _text(self, index: int, text: str, logprobs: list[Json]) -> Iterator[str]:
        yield from self._delta(index, {"content": text}, logprobs=logprobs_of(logprobs, self._plan))

    def _delta(self, index: int, delta: Json, *, logprobs: Json | None = None) -> Iterator[str]:
        if index not in self._begun:
            self._begun.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""})
        yield self._chunk(index, delta, logprobs=logprobs)

    def _chunk(
        self,
        index: int,
        delta: Json,
        *,
        finish_reason: str | None = None,
        logprobs: Json | None = None,
        rank: Json | None = None,
        **extra: Any,  # Any: JSON values
    ) -> str:
        choice: Json = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        choice |= rank or {}
        return sse_block(self._frame([choice], **extra))

    def _frame(self, choices: list[Json], **extra: Any) -> Json:  # Any: JSON values
        frame: Json = {
            "id": completion_id(self._watch.job_id),
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._plan.wish.model,
            "choices": choices,
            **extra,
        }
        return {"usage": None, **frame} if self._includes_usage else frame
