"""Sending calls to Redis: those that wait at the same time travel together, on few connections, and survive outages.

A call that got no answer is sent again, marked as a retry, until its time is over; scripts know by the mark that they
may have been carried out already.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis import exceptions

from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.stores.redis.address import RedisAddress, Wire
from orchestrator.stores.redis.failures import TO_RETRY, failure
from orchestrator.stores.redis.keys import Keys
from orchestrator.stores.redis.scripts import Scripts

_LOG = logging.getLogger(__name__)

PATIENCE_S = 15.0
"""How long a call is sent again before it fails; as long as SQLite stores wait for a lock."""
ANSWER_S = 10.0
"""How long one exchange may take before the connection counts as broken."""
_MOST_TOGETHER = 128
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0

Value = str | bytes | int


@dataclass(slots=True, eq=False)
class _Call:
    """One call: a script by name, or the words of a command."""

    script: str | None
    words: list[bytes]
    future: asyncio.Future[Any]  # Any: what Redis answers
    give_up_at: float
    may_be_done: bool = False


class Calls:
    """Two lanes to one server, for what changes the store and for what reads it, so that long reads delay no write.

    A call that was asked for is carried out even if whoever awaits it is cancelled.

    Args:
        address: The server.
        patience_s: How long a call is tried.
    """

    def __init__(self, address: RedisAddress, *, patience_s: float = PATIENCE_S) -> None:
        self._address = address
        self._patience_s = patience_s
        self._root = Keys(address.prefix).root.encode()
        scripts = Scripts()
        self._writing, self._reading = (_Lane(address, scripts, self._root) for _ in range(2))
        self._is_closed = False

    def submit(self, script: str, *arguments: Value, is_read: bool = False) -> asyncio.Future[Any]:
        """Starts a script of `Scripts`; its answer is that of the future.

        Raises:
            InvalidRequest: An argument is no Unicode text.
            StoreFailed: The store is closed.
        """
        return self._submit(script, arguments, self._reading if is_read else self._writing)

    async def script(self, name: str, *arguments: Value, is_read: bool = False) -> Any:  # Any: what Redis answers
        """What a script of `Scripts` answers.

        Raises:
            StoreFailed: Redis could not be reached, or did not carry it out.
        """
        return await self.submit(name, *arguments, is_read=is_read)

    async def read(self, *words: Value) -> Any:  # Any: what Redis answers
        """What a command that changes nothing answers; raises as `script` does."""
        return await self._submit(None, words, self._reading)

    async def aclose(self) -> None:
        """Waits for what was asked for, but for no server that does not answer; safe to call twice."""
        self._is_closed = True
        for lane in (self._writing, self._reading):
            await lane.aclose()

    def check_open(self) -> None:
        """Raises StoreFailed if it is closed."""
        if self._is_closed:
            raise StoreFailed(f"the store {self._address.shown!r} is closed", url=self._address.shown)

    def _submit(self, script: str | None, words: Iterable[Value], lane: _Lane) -> asyncio.Future[Any]:
        self.check_open()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        lane.add(_Call(script, [_encoded(word) for word in words], future, time.monotonic() + self._patience_s))
        return future


class _Lane:
    """One connection, and the task that sends calls over it in the order in which they come."""

    def __init__(self, address: RedisAddress, scripts: Scripts, root: bytes) -> None:
        self._address = address
        self._scripts = scripts
        self._root = root
        self._waiting: deque[_Call] = deque()
        self._is_needed = asyncio.Event()
        self._is_closing = False
        self._connection: Wire | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, call: _Call) -> None:
        """Sends a call as soon as the ones before it are answered."""
        self._waiting.append(call)
        self._is_needed.set()
        if self._task is None:  # no task group: it lives as long as the store, and `aclose` awaits it
            self._task = asyncio.get_running_loop().create_task(self._work(), name="ttc-redis-lane")

    async def aclose(self) -> None:
        self._is_closing = True
        self._is_needed.set()
        if self._task is not None:
            await self._task

    async def _work(self) -> None:
        try:
            while True:
                group = self._next_group(_MOST_TOGETHER)
                if group:
                    await self._carry_out(group)
                elif self._is_closing:
                    return
                else:
                    self._is_needed.clear()
                    await self._is_needed.wait()
        finally:
            await self._disconnect()
            _fail(self._next_group(None), StoreFailed(f"the store {self._address.shown!r} is closed"))

    def _next_group(self, most: int | None) -> list[_Call]:
        count = len(self._waiting) if most is None else min(most, len(self._waiting))
        return [self._waiting.popleft() for _ in range(count)]

    async def _carry_out(self, group: list[_Call]) -> None:
        """Sends calls until each is answered or its time is over."""
        pause_s = _FIRST_PAUSE_S
        while group:
            try:
                async with asyncio.timeout(ANSWER_S):
                    error = await self._exchange(group)
            except (exceptions.RedisError, OSError) as caught:  # TimeoutError is an OSError
                error = caught
                await self._disconnect()
            except Exception as caught:  # noqa: BLE001  # whatever it was, those who wait must be told
                _LOG.exception("a store's connection failed", extra={"url": self._address.shown})
                error = caught
                await self._disconnect()
            if error is None:
                return
            group = [call for call in group if not call.future.done()]
            group += self._next_group(None)
            group = self._in_time(group, error)
            if group and not isinstance(error, exceptions.MovedError | exceptions.NoScriptError):
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311  # spreads clients
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _in_time(self, group: list[_Call], error: Exception) -> list[_Call]:
        """Those that are worth another try; the others fail."""
        now = time.monotonic()
        is_hopeless = self._is_closing or isinstance(error, exceptions.AuthenticationError)
        late = [call for call in group if is_hopeless or now >= call.give_up_at]
        if late:
            _LOG.warning("a store does not answer", extra={"url": self._address.shown, "num_calls": len(late)})
            _fail(late, failure(error, self._address.shown))
        return [call for call in group if not call.future.done()]

    async def _exchange(self, group: list[_Call]) -> Exception | None:
        """Sends calls and delivers answers; returns why some are to be sent again."""
        connection = await self._connected()
        packed = b"".join([_packed(self._words(call)) for call in group])
        for call in group:
            call.may_be_done = True
        await connection.send_packed_command([packed], check_health=False)
        refusal: Exception | None = None
        for call in group:
            try:
                answer = await connection.read_response(disable_decoding=True)
            except TO_RETRY as error:
                refusal = error
            except exceptions.ResponseError as error:
                _fail([call], failure(error, self._address.shown))
            else:
                if not call.future.done():
                    call.future.set_result(answer)
        if refusal is not None:
            await self._disconnect()
            if isinstance(refusal, exceptions.MovedError):
                self._address.move(refusal.host, refusal.port)
        return refusal

    def _words(self, call: _Call) -> list[bytes]:
        if call.script is None:
            return call.words
        digest = self._scripts[call.script].digest
        return [b"EVALSHA", digest, b"1", self._root, b"1" if call.may_be_done else b"0", *call.words]

    async def _connected(self) -> Wire:
        """The open connection; a new one makes sure that the server has the scripts."""
        if self._connection is None:
            connection = self._address.connection()
            try:
                await connection.connect()
                loads = [_packed([b"SCRIPT", b"LOAD", script.text]) for script in self._scripts.values()]
                await connection.send_packed_command(loads, check_health=False)
                for _ in loads:
                    await connection.read_response(disable_decoding=True)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._connection = connection
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _fail(calls: Iterable[_Call], error: Exception) -> None:
    for call in calls:
        if not call.future.done():
            call.future.set_exception(error)


def _encoded(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return str(value).encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{value!r} is no Unicode text", field="job_id", value=ascii(value)) from None


def _packed(words: list[bytes]) -> bytes:
    """A command as Redis reads it."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)
