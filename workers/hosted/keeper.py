"""Keeps a host alive: asks it how it is, kills it when it hangs, starts another one when it has died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from orchestrator.engine import ModelDescription
from orchestrator.engine_health import TOTALS, EngineHealth, added
from orchestrator.errors import EngineFailed, TtcError
from orchestrator.workers.hosted.link import Link
from orchestrator.workers.hosted.pacing import Pacing

_LOG = logging.getLogger(__name__)


class Keeper:
    """The host of one engine, through its deaths.

    Args:
        start: Starts a host and has it open the engine.
        link: The first one.
        pacing: How long things may take.
    """

    def __init__(self, start: Callable[[], Awaitable[Link]], link: Link, *, pacing: Pacing) -> None:
        self._start = start
        self._pacing = pacing
        self._link: Link | None = link
        self._description: ModelDescription = link.description
        self._coming: asyncio.Future[Link] = _future()
        self._problem = ""
        self._num_deaths = 0
        self._last = EngineHealth()  # of the present host
        self._before = EngineHealth()  # totals of those that have died
        self._is_closed = False
        # It outlives the call that opens the engine, as the engine does; `aclose` waits for it.
        self._keeping = asyncio.create_task(self._keep(link), name=f"host of {self._description.name}")

    @property
    def present(self) -> Link | None:
        """The host, if it is up."""
        return self._link

    async def link(self, *, deadline_s: float | None = None, unless: asyncio.Future[None] | None = None) -> Link | None:
        """The host, waited for if it is being started again.

        Args:
            deadline_s: After so many seconds nobody wants it any more.
            unless: Nor when this is done.

        Returns:
            None when nobody wants it any more.

        Raises:
            EngineFailed: It could not be started, takes too long, or the engine is closed.
        """
        if self._is_closed:
            raise EngineFailed("the engine is closed", model=self._description.name, is_retryable=False)
        if self._link is not None:
            return self._link
        wait_s = self._pacing.wait_s
        is_final = deadline_s is not None and deadline_s <= wait_s
        coming = self._coming
        waited_for: set[asyncio.Future[Any]] = {coming} if unless is None else {coming, unless}  # Any: two types
        await asyncio.wait(waited_for, timeout=deadline_s if is_final else wait_s, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        if is_final or (unless is not None and unless.done()):
            return None
        raise EngineFailed(self._explanation(), model=self._description.name)

    async def health(self) -> EngineHealth:
        """The engine's counters, those of earlier hosts included."""
        link = self._link
        if link is None:
            detail = "closed" if self._is_closed else self._explanation()
            return replace(self._before, is_ready=False, detail=detail)
        try:
            async with asyncio.timeout(self._pacing.ping_patience_s):
                self._last = await link.call("health")
        except (TimeoutError, EngineFailed) as error:
            detail = f"the process that hosts the model does not answer: {error}"
            return replace(_added(self._before, self._last), is_ready=False, detail=detail)
        return _added(self._before, self._last)

    async def aclose(self) -> None:
        """Ends the host; safe to call twice."""
        self._is_closed = True
        self._keeping.cancel()
        if not self._coming.done():
            self._coming.set_exception(
                EngineFailed("the engine was closed", model=self._description.name, is_retryable=False)
            )
            self._coming.exception()  # nobody need be waiting for it
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping
        link, self._link = self._link, None
        if link is not None:
            await link.aclose(within_s=self._pacing.farewell_s)

    # Inside

    async def _keep(self, link: Link) -> None:
        while True:
            started_at = asyncio.get_running_loop().time()
            await self._watch(link)
            self._link = None
            why = await link.bury()
            self._before, self._last = _added(self._before, self._last), EngineHealth()
            if asyncio.get_running_loop().time() - started_at >= self._pacing.stable_s:
                self._num_deaths = 0
            self._note(why)
            link = await self._started_again()

    async def _watch(self, link: Link) -> None:
        """Returns when the host is dead, by itself or because it hung."""
        while not link.is_lost.is_set():
            try:
                async with asyncio.timeout(self._pacing.ping_every_s):
                    await link.is_lost.wait()
                    return
            except TimeoutError:
                pass
            try:
                async with asyncio.timeout(self._pacing.ping_patience_s):
                    self._last = await link.call("health")
                link.vocabulary.trust_again()
            except TimeoutError:
                patience_s = self._pacing.ping_patience_s
                _LOG.error("a host hangs and is killed", extra={"model": self._description.name, "pid": link.pid})
                link.kill(f"did not answer for {patience_s:g} s and was killed")
                return
            except TtcError as error:
                if not link.is_lost.is_set():
                    _LOG.warning("a host cannot tell its health: %s", error, extra={"model": self._description.name})

    async def _started_again(self) -> Link:
        while True:
            await asyncio.sleep(self._pacing.delay_s(self._num_deaths))
            try:
                link = await self._start()
            except Exception as error:  # noqa: BLE001  # whatever it is, another attempt follows; those who wait are told
                self._note(f"cannot be started: {error}")
                failed, self._coming = self._coming, _future()
                failed.set_exception(EngineFailed(self._explanation(), model=self._description.name))
                failed.exception()  # nobody need be waiting for it
                continue
            if link.description != self._description:
                _LOG.warning("a host serves another model than before", extra={"model": self._description.name})
            self._link = link
            there, self._coming = self._coming, _future()
            there.set_result(link)
            _LOG.info("a host was started again", extra={"model": self._description.name, "pid": link.pid})
            return link

    def _note(self, why: str) -> None:
        self._num_deaths += 1
        self._problem = why
        _LOG.error("the process that hosts a model %s", why, extra={"model": self._description.name})

    def _explanation(self) -> str:
        delay_s = self._pacing.delay_s(self._num_deaths)
        return (
            f"the process that hosts model {self._description.name!r} {self._problem}; it is being started again "
            f"(failure {self._num_deaths} in a row, {delay_s:g} s before the next attempt)"
        )


def _future() -> asyncio.Future[Link]:
    return asyncio.get_running_loop().create_future()


def _added(before: EngineHealth, now: EngineHealth) -> EngineHealth:
    """The present host's health, with totals since the engine was opened."""
    return replace(added(now, before, TOTALS), peak_kv_cells=max(before.peak_kv_cells, now.peak_kv_cells))
