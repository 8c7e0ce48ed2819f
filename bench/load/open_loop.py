"""Sends requests when they are due, whatever is still in flight: load that does not wait for the server.

A sender that waits for replies slows down with the server and measures too well (coordinated omission); this one waits
for nothing but the clock. Reports are made elsewhere, of what is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import aclosing

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.exchange import Exchange, Outcome
from orchestrator.bench.load.prompts import Prompts
from orchestrator.bench.load.target import Target, TargetFailed
from orchestrator.clock import Clock

_LEAD_S = 0.05  # in which the first request is made


class OpenLoop:
    """One run of a plan against a target.

    Args:
        target: Where requests go.
        prompts: What they ask.
        clock: Says when.
        timeout_s: Longest time from sending to the end of the reply.
        max_in_flight: Safety valve: a request that is due while so many are in flight is dropped, and counted.

    Attributes:
        exchanges: One for each arrival that has been due, in order.
        num_in_flight: Requests that are sent and not ended.
        is_stopped: Whether `stop` was called.
        duration_s: Of the run, once it has ended: to the end of the last request, or to the stop.
    """

    def __init__(self, target: Target, prompts: Prompts, *, clock: Clock, timeout_s: float, max_in_flight: int) -> None:
        self.exchanges: list[Exchange] = []
        self.num_in_flight = 0
        self.is_stopped = False
        self.duration_s = 0.0
        self._target = target
        self._prompts = prompts
        self._clock = clock
        self._timeout_s = timeout_s
        self._max_in_flight = max_in_flight
        self._start_s = 0.0
        self._scope: asyncio.Timeout | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, below 0 just before it."""
        return self._clock.monotonic() - self._start_s

    async def run(self, arrivals: Sequence[Arrival]) -> None:
        """Sends all, and returns when all have ended; or stopped."""
        if self.is_stopped:
            return
        self._start_s = self._clock.monotonic() + _LEAD_S
        try:
            with contextlib.suppress(TimeoutError):  # only `stop` ends this scope
                async with asyncio.timeout(None) as self._scope, asyncio.TaskGroup() as group:
                    await self._send_all(arrivals, group)
        finally:
            self._scope = None
            self.duration_s = max(0.0, self.elapsed_s)

    def stop(self) -> None:
        """Sends nothing more, and hangs up on what is in flight."""
        self.is_stopped = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def _send_all(self, arrivals: Sequence[Arrival], group: asyncio.TaskGroup) -> None:
        for index, arrival in enumerate(arrivals):
            body = self._target.encoded(self._prompts.text(index, arrival), max_tokens=arrival.output_tokens)
            await self._clock.sleep(max(0.0, arrival.at_s - self.elapsed_s))
            exchange = Exchange(index, arrival)
            self.exchanges.append(exchange)
            if self.num_in_flight >= self._max_in_flight:
                exchange.outcome = Outcome.DROPPED
            else:
                self.num_in_flight += 1
                group.create_task(self._carry_out(exchange, body))
                await asyncio.sleep(0)  # it is sent before the next one is made

    async def _carry_out(self, exchange: Exchange, body: bytes) -> None:
        exchange.sent_s = self.elapsed_s
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._hear(exchange, body)
            exchange.outcome = Outcome.COMPLETED
        except TargetFailed as error:
            exchange.outcome, exchange.error, exchange.message = Outcome.FAILED, error.kind, str(error)
            exchange.status = error.status or exchange.status
        except TimeoutError:
            exchange.outcome, exchange.error = Outcome.FAILED, "timeout"
            exchange.message = f"not complete after {self._timeout_s:g} s"
        finally:
            exchange.end_s = self.elapsed_s
            self.num_in_flight -= 1

    async def _hear(self, exchange: Exchange, body: bytes) -> None:
        async with aclosing(self._target.exchange(body)) as parts:
            async for part in parts:
                exchange.status = 200
                if part.has_content:
                    exchange.chunk_times_s.append(self.elapsed_s)
                if part.counts is not None:
                    exchange.counts = part.counts
