"""The tools of the MCP server, and how it is run over standard input and output or over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from importlib.metadata import version
from typing import Annotated, Any, NamedTuple

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from orchestrator.api.mcp.desks import Desk
from orchestrator.api.mcp.outcomes import Outcome, Progress
from orchestrator.budget import Budget
from orchestrator.errors import RunFailure, TtcError

Json = dict[str, Any]  # Any: JSON values

INSTRUCTIONS = """Solves problems with language models by test-time compute: it samples several solutions, searches, \
verifies and votes, under a budget that holds, and says how sure it is. Use `solve` for a problem whose answer can be \
waited for. For long ones use `start_job`, then `job_result`; `cancel_job` ends a job with its best answer so far."""

_LONGEST_WAIT_S = 600.0
_PROGRESS_S = 0.25

Problem = Annotated[str, Field(min_length=1, description="The question or task, complete in itself")]
JobId = Annotated[str, Field(min_length=1, description="As start_job gave it")]
Policy = Annotated[str | None, Field(description="How the budget is spent, e.g. single, self_consistency, best_of_n")]
Params = Annotated[Json | None, Field(description='Parameters of the policy, e.g. {"n": 8}')]
Caps = Annotated[
    str | None, Field(description="Caps on the job, e.g. tokens=2000,seconds=60,usd=0.01; all are kept to")
]
Confidence = Annotated[float | None, Field(gt=0, lt=1, description="Stop once the policy is this sure")]
Verifier = Annotated[str | None, Field(description="Who scores solutions, for policies that ask, e.g. generative")]
Answer = Annotated[
    str,
    Field(description="How answers are read: auto, number, choice, boxed, exact, code, json, text or regex:PATTERN"),
]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="All randomness derives from it")]


class HttpAddress(NamedTuple):
    """Where to listen."""

    host: str
    port: int


async def serve(
    open_desk: Callable[[], AbstractAsyncContextManager[Desk]],
    *,
    limits: Budget | None = None,
    http: HttpAddress | None = None,
) -> None:
    """Serves until standard input ends, or over HTTP until it is told to stop.

    Models may take long to open, longer than clients wait for a server to say hello: the desk is opened meanwhile, and
    tools wait for it. If it cannot be opened, they say why.

    Args:
        open_desk: Where jobs go.
        limits: Caps on every job; calls may ask for less.
        http: None for standard input and output, which then carry nothing else.
    """
    desk: asyncio.Future[Desk] = asyncio.get_running_loop().create_future()
    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_keep_open(open_desk, desk, is_over))
        server = _server(desk, limits or Budget())
        try:
            if http is None:
                await server.run_stdio_async()
            else:
                await server.run_streamable_http_async(host=http.host, port=http.port)
        finally:
            is_over.set()


async def _keep_open(
    open_desk: Callable[[], AbstractAsyncContextManager[Desk]], desk: asyncio.Future[Desk], is_over: asyncio.Event
) -> None:
    try:
        async with open_desk() as opened:
            desk.set_result(opened)
            await is_over.wait()
    except TtcError as error:
        if desk.done():
            raise
        desk.set_exception(error)
        desk.exception()  # read: nobody may ever ask for it


def _server(desk: asyncio.Future[Desk], limits: Budget) -> MCPServer[Any]:  # Any: no lifespan of its own
    server: MCPServer[Any] = MCPServer(
        "ttc", version=version("ttc-orchestrator"), instructions=INSTRUCTIONS, log_level="ERROR", subscriptions=False
    )

    @server.tool(annotations=ToolAnnotations(title="Solve a problem", read_only_hint=False, open_world_hint=False))
    async def solve(
        problem: Problem,
        ctx: Context,
        *,
        policy: Policy = None,
        params: Params = None,
        budget: Caps = None,
        target_confidence: Confidence = None,
        verifier: Verifier = None,
        answer: Answer = "auto",
        seed: Seed = 0,
    ) -> Outcome:
        """Solve a problem and wait for the answer. Cancelling the request cancels the job."""
        with _told():
            caps = _caps(budget, target_confidence, limits)
            options = _given(policy=policy, params=params, budget=caps, verifier=verifier, answer=answer, seed=seed)
            return await _solved(await asyncio.shield(desk), problem, options, ctx)

    @server.tool(annotations=ToolAnnotations(title="Start a job", read_only_hint=False, open_world_hint=False))
    async def start_job(
        problem: Problem,
        *,
        policy: Policy = None,
        params: Params = None,
        budget: Caps = None,
        target_confidence: Confidence = None,
        verifier: Verifier = None,
        answer: Answer = "auto",
        seed: Seed = 0,
    ) -> Outcome:
        """Start solving a problem and return at once, with the id of the job."""
        with _told():
            caps = _caps(budget, target_confidence, limits)
            options = _given(policy=policy, params=params, budget=caps, verifier=verifier, answer=answer, seed=seed)
            return await (await asyncio.shield(desk)).start(problem, options)

    @server.tool(annotations=ToolAnnotations(title="Look at a job", read_only_hint=True))
    async def job_status(job_id: JobId) -> Outcome:
        """How a job stands now, with its result if it has ended."""
        with _told():
            return await (await asyncio.shield(desk)).look(job_id, wait_s=0.0)

    @server.tool(annotations=ToolAnnotations(title="Wait for a job", read_only_hint=True))
    async def job_result(
        job_id: JobId,
        wait_s: Annotated[float, Field(ge=0, le=_LONGEST_WAIT_S, description="Most seconds to wait")] = 60.0,
    ) -> Outcome:
        """Wait for a job to end, and return its result; if it takes longer, return how it stands."""
        with _told():
            return await (await asyncio.shield(desk)).look(job_id, wait_s=wait_s)

    @server.tool(
        annotations=ToolAnnotations(
            title="Cancel a job", read_only_hint=False, destructive_hint=True, idempotent_hint=True
        )
    )
    async def cancel_job(job_id: JobId) -> Outcome:
        """End a job with its best answer so far; what it has spent is spent. A finished job stays as it is."""
        with _told():
            return await (await asyncio.shield(desk)).cancel(job_id)

    return server


async def _solved(desk: Desk, problem: str, options: Json, ctx: Context) -> Outcome:
    """The end of a new job; how far it is is told at most every quarter of a second."""
    progress = Progress()
    budget: Budget | None = options.get("budget")
    total = None if budget is None else budget.max_output_tokens
    clock = asyncio.get_running_loop().time
    told_tokens, told_at = 0, clock() - _PROGRESS_S
    async with aclosing(desk.stream(problem, options)) as events:
        async for event in events:
            if event.kind == "result":
                return Outcome.of_result(event.data["result"].raise_for_error())
            progress.take(event)
            if progress.num_tokens > told_tokens and clock() - told_at >= _PROGRESS_S:
                told_tokens, told_at = progress.num_tokens, clock()
                await ctx.report_progress(told_tokens, total, progress.message)
    raise RunFailure("the job ended without a result")


@contextlib.contextmanager
def _told() -> Any:  # Any: as contextlib types it
    """Our errors are for the model to read; others are logged, and hidden from it."""
    try:
        yield
    except TtcError as error:
        raise ToolError(str(error)) from None


def _caps(budget: str | None, target_confidence: float | None, limits: Budget) -> Budget | None:
    """What is asked for, and never more than the limits."""
    asked = Budget.parse(budget or "", target_confidence=target_confidence).to_json()
    for name, limit in limits.to_json().items():
        asked[name] = min(asked[name], limit) if name in asked else limit
    return Budget.from_json(asked) if asked else None


def _given(**options: Any) -> Json:  # Any: options of several types
    return {name: value for name, value in options.items() if value is not None}
