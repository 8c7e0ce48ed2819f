"""Waiting for what other processes do: all waiters of a store share one subscribed connection.

A channel is listened to from the first wait for it until some time after the last, so that nothing is missed between
two waits. When the connection is lost, everybody who waits is woken: what happened in the meantime is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions

from orchestrator.stores.redis.address import RedisAddress, Wire

_LOG = logging.getLogger(__name__)

_SILENCE_S = 15.0
"""After so long without a message the server is asked whether it is there, and has as long again to answer."""
_CONNECT_S = 10.0
_LINGER_S = 30.0
"""How long a channel is listened to after the last wait for it."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

Look = Callable[[], Awaitable[bytes]]
"""What the last message of a channel would have been."""


@dataclass(slots=True, eq=False)
class _Topic:
    """A channel that somebody waits for.

    Attributes:
        is_heard: Set once the server has confirmed the subscription.
        change: Set, and replaced, at every message.
        last: The last message; None if there was none since the subscription.
        num_unseen: Messages since the last wait returned.
        num_waiting: Who waits now.
        left_at: When the last one left.
    """

    is_heard: asyncio.Event = field(default_factory=asyncio.Event)
    change: asyncio.Event = field(default_factory=asyncio.Event)
    last: bytes | None = None
    num_unseen: int = 1  # nobody knows what was before
    num_waiting: int = 0
    left_at: float = 0.0

    def tell(self, message: bytes | None) -> None:
        self.last = message
        self.num_unseen += 1
        self.change.set()
        self.change = asyncio.Event()


class Waiting:
    """The subscriptions of a store.

    Args:
        address: The server.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._topics: dict[str, _Topic] = {}
        self._connection: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._swept_at = time.monotonic()

    @property
    def num_channels(self) -> int:
        """Channels that are listened to."""
        return len(self._topics)

    async def for_change(self, channel: str, *, timeout_s: float) -> None:
        """Returns when there was a message since the last return, at the latest after ``timeout_s``."""

        async def wait(topic: _Topic) -> None:
            if topic.num_unseen == 0:
                await topic.change.wait()
            topic.num_unseen = 0

        await self._wait(channel, wait, timeout_s)

    async def until(self, channel: str, is_enough: Callable[[bytes], bool], look: Look, *, timeout_s: float) -> None:
        """Returns when the state that messages tell of is enough, or has changed; at the latest after ``timeout_s``.

        Args:
            channel: Whose messages.
            is_enough: Whether to wait no more, from the last message.
            look: Reads the state where no message has come yet.
            timeout_s: In seconds.
        """

        async def wait(topic: _Topic) -> None:
            change = topic.change
            if topic.last is None:
                seen = await look()
                if topic.last is None:
                    topic.last = seen
            if not change.is_set() and not is_enough(topic.last):
                await change.wait()

        await self._wait(channel, wait, timeout_s)

    async def aclose(self) -> None:
        """Wakes everybody and closes the connection; safe to call twice."""
        self._is_closed = True
        for topic in self._topics.values():
            topic.is_heard.set()
            topic.tell(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _wait(self, channel: str, wait: Callable[[_Topic], Awaitable[None]], timeout_s: float) -> None:
        if self._task is None:  # no task group: it lives as long as the store, and `aclose` ends it
            self._task = asyncio.get_running_loop().create_task(self._work(), name="ttc-redis-listener")
        topic = self._topics.get(channel)
        is_new = topic is None
        if topic is None:
            topic = self._topics[channel] = _Topic()
        topic.num_waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                if is_new:
                    await self._send("SUBSCRIBE", channel)
                await topic.is_heard.wait()
                if not self._is_closed:
                    await wait(topic)
        except TimeoutError:
            pass
        finally:
            topic.num_waiting -= 1
            topic.left_at = time.monotonic()

    async def _work(self) -> None:
        """Keeps a connection and reads from it, for ever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            connection = self._address.connection()
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await connection.connect()
                    self._connection = connection  # from here on, new channels are subscribed to as they come
                    if self._topics:
                        await self._send("SUBSCRIBE", *self._topics)
                pause_s = _FIRST_PAUSE_S
                await self._listen(connection)
            except (exceptions.RedisError, OSError) as error:  # TimeoutError is an OSError
                level = logging.WARNING if pause_s == _FIRST_PAUSE_S else logging.DEBUG  # once for each outage
                _LOG.log(level, "a store's messages do not come: %s", error, extra={"url": self._address.shown})
            except Exception:  # noqa: BLE001  # a listener that ended would leave everybody waiting
                _LOG.exception("a store's messages cannot be read", extra={"url": self._address.shown})
            finally:
                self._connection = None
                await connection.disconnect(nowait=True)
                self._wake_all()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _listen(self, connection: Wire) -> None:
        is_asked = False
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    answer = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except TimeoutError:
                if is_asked:
                    raise
                is_asked = True
                await connection.send_command("PING", check_health=False)
            else:
                is_asked = False
                self._deliver(answer)
            await self._sweep()

    def _deliver(self, answer: list[Any]) -> None:  # Any: what Redis pushes
        kind, channel = answer[0], answer[1]
        topic = self._topics.get(channel.decode())
        if topic is None:
            return
        if kind == b"subscribe":
            topic.is_heard.set()
        elif kind == b"message":
            topic.tell(answer[2])

    def _wake_all(self) -> None:
        """The connection is gone: nobody hears anything until the next one is there, and messages may be missing."""
        for topic in self._topics.values():
            topic.is_heard.clear()
            topic.tell(None)

    async def _sweep(self) -> None:
        """Leaves channels that nobody has waited for in a while."""
        now = time.monotonic()
        if now - self._swept_at < _LINGER_S / 3:
            return
        self._swept_at = now
        idle = [
            channel
            for channel, topic in self._topics.items()
            if not topic.num_waiting and now - topic.left_at > _LINGER_S
        ]
        for channel in idle:
            del self._topics[channel]
        if idle:
            await self._send("UNSUBSCRIBE", *idle)

    async def _send(self, *words: str) -> None:
        """Sends a command if there is a connection; a new one subscribes to everything by itself."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            return
        try:
            await connection.send_command(*words, check_health=False)
        except (exceptions.RedisError, OSError) as error:
            _LOG.debug("a store's channels could not be changed: %s", error, extra={"url": self._address.shown})
