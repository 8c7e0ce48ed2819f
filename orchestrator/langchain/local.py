"""Replies from an `Orchestrator` of this process, in the JSON of the chat endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from orchestrator.errors import InvalidRequest
from orchestrator.in_process import Orchestrator
from orchestrator.job import Result
from orchestrator.langchain.asking import local_options

Json = dict[str, Any]  # Any: JSON values
_T = TypeVar("_T")


class LocalSource:
    """An open `Orchestrator`. It belongs to the event loop in which this was made, or first awaited.

    Args:
        orchestrator: Open for as long as this is used.
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    async def asolve(self, problem: str, **options: Any) -> Result:  # Any: as for `Orchestrator.solve`
        """`Orchestrator.solve`."""
        self._check_loop()
        return await self._orchestrator.solve(problem, **options)

    def solve(self, problem: str, **options: Any) -> Result:  # Any: as for `Orchestrator.solve`
        """`Orchestrator.solve`, for threads other than that of the event loop."""
        return self._awaited(self._orchestrator.solve(problem, **options))

    async def acomplete(self, body: Json) -> Json:
        """A whole reply."""
        self._check_loop()
        problem, options = local_options(body, self._orchestrator.settings)
        return _reply(body, await self._orchestrator.solve(problem, **options))

    def complete(self, body: Json) -> Json:
        """A whole reply, for threads other than that of the event loop."""
        return self._awaited(self.acomplete(body))

    async def astream(self, body: Json) -> AsyncGenerator[Json]:
        """Its chunks: text as it is generated where the policy commits to it, else the whole at the end."""
        self._check_loop()
        problem, options = local_options(body, self._orchestrator.settings)
        told = ""
        events = self._orchestrator.stream(problem, **options)
        try:
            async for event in events:
                if event.kind == "answer_delta":
                    told += event.data["text"]
                    yield {"choices": [{"delta": {"content": event.data["text"]}}]}
                elif event.kind == "result":
                    yield _last_chunk(body, event.data["result"].raise_for_error(), told)
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    def stream(self, body: Json) -> Generator[Json]:
        """Its chunks, for threads other than that of the event loop."""
        chunks: queue.SimpleQueue[Json | BaseException | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async with contextlib.aclosing(self.astream(body)) as stream:
                    async for chunk in stream:
                        chunks.put(chunk)
                chunks.put(None)
            except BaseException as error:
                chunks.put(error)
                raise

        pumping = asyncio.run_coroutine_threadsafe(pump(), self._other_loop())
        try:
            while (chunk := chunks.get()) is not None:
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk
        finally:
            pumping.cancel()
            with contextlib.suppress(CancelledError):
                pumping.exception()

    # -- which thread ------------------------------------------------------------------------------------------

    def _awaited(self, work: Coroutine[Any, Any, _T]) -> _T:  # Any: as typing wants them
        try:
            loop = self._other_loop()
        except InvalidRequest:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def _other_loop(self) -> asyncio.AbstractEventLoop:
        """The orchestrator's event loop, for a thread that may wait for it.

        Raises:
            InvalidRequest: There is none yet, or it would wait for itself.
        """
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise InvalidRequest(
                "an orchestrator of this process cannot be waited for inside an event loop; use ainvoke, astream or "
                "abatch there",
                field="orchestrator",
            )
        if self._loop is None:
            raise InvalidRequest(
                "make the chat model inside `async with Orchestrator(...)`; it then may be used from other threads",
                field="orchestrator",
            )
        return self._loop

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise InvalidRequest("the orchestrator was opened in another event loop", field="orchestrator")


def _reply(body: Json, result: Result) -> Json:
    message: Json = {"content": _text(result)}
    if calls := _tool_calls(result):
        message["tool_calls"] = calls
    return _about(body, result) | {"choices": [{"message": message, "finish_reason": _finish(result)}]}


def _last_chunk(body: Json, result: Result, told: str) -> Json:
    text = _text(result)
    delta: Json = {"content": text.removeprefix(told) if text.startswith(told) else ""}
    if calls := _tool_calls(result):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return _about(body, result) | {"choices": [{"delta": delta, "finish_reason": _finish(result)}]}


def _about(body: Json, result: Result) -> Json:
    usage = result.usage
    return {
        "id": result.job_id,
        "created": int(time.time()),
        "model": body.get("model"),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        },
        "ttc": {name: value for name, value in result.to_json().items() if value is not None},
    }


def _text(result: Result) -> str:
    """What is said: the text that was committed to, or that of the sample which states the answer, or the answer."""
    node = result.answer.node
    if result.committed_text is not None:
        return result.committed_text
    if node is not None and (node.trajectory or node.tool_calls):
        return node.trajectory
    return result.text or ""


def _tool_calls(result: Result) -> list[Json]:
    node = result.answer.node
    calls = () if node is None else node.tool_calls
    functions = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in calls]
    return [{"id": call_id, "type": "function", "function": function} for call_id, function in functions]


def _finish(result: Result) -> str:
    node = result.answer.node
    if node is not None and node.tool_calls:
        return "tool_calls"
    return "length" if result.limited_by is not None or (node is not None and node.is_cut) else "stop"
