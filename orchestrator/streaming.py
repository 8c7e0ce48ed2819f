"""Jobs as streams: the events of one while it runs, the results of many as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from orchestrator.errors import CallerError, InvalidRequest, TtcError
from orchestrator.events import Event, Publish
from orchestrator.job import Result


async def events_of(
    solve: Callable[[Publish], Awaitable[Result]], *, cancel: Callable[[str], object]
) -> AsyncIterator[Event]:
    """The events of a job while it runs.

    Args:
        solve: Runs the job, and tells its argument every event.
        cancel: Ends the job of an id; called when the iteration is left early.
    """
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    seen: dict[str, Event] = {}

    def tell(event: Event) -> None:
        seen[event.kind] = event
        queue.put_nowait(event)

    async def work() -> None:
        try:
            await solve(tell)
        except TtcError as error:
            if "result" not in seen or isinstance(error, CallerError):
                raise
        finally:
            queue.put_nowait(None)

    # No task group: whoever leaves the iteration early closes this generator at its yield, where none could end.
    task = asyncio.create_task(work())
    try:
        while (event := await queue.get()) is not None:
            yield event
    finally:
        if "started" in seen:
            cancel(seen["started"].data["job_id"])
        else:
            task.cancel()
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
    await task


async def as_they_end(
    solve: Callable[[str], Awaitable[Result]], problems: Iterable[str], *, concurrency: int
) -> AsyncIterator[tuple[int, Result | TtcError]]:
    """The index of each problem with its result or error, in the order in which they are done.

    Args:
        solve: Solves one problem.
        problems: The problems.
        concurrency: So many are being solved at once.
    """
    if concurrency < 1:
        raise InvalidRequest(
            f"concurrency must be at least 1, not {concurrency}", field="concurrency", value=concurrency
        )
    gate = asyncio.Semaphore(concurrency)

    async def work(index: int, problem: str) -> tuple[int, Result | TtcError]:
        async with gate:
            try:
                return index, await solve(problem)
            except TtcError as error:
                return index, error

    # No task group, as in `events_of`.
    running = {asyncio.create_task(work(index, problem)) for index, problem in enumerate(problems)}
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield await task
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
