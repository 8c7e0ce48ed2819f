"""One end of a socket between a hosted engine and its host: frames in, frames out, without blocking."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from orchestrator.workers.hosted.frames import BadFrameError, Frame, FrameReader, packed

_LOG = logging.getLogger(__name__)

_UNSENT_BYTES = 1 << 20
"""Who sends much waits (`Connection.room`) while more than this is unsent."""


class Connection(asyncio.Protocol):
    """Sends and receives frames.

    Args:
        on_frame: Called with each one; what it raises ends the connection.
        on_lost: Called once, when the other end is gone.
    """

    def __init__(self, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_closed = asyncio.Event()
        self.is_lost = False

    @classmethod
    async def over(
        cls, end: socket.socket, on_frame: Callable[[Frame], None], on_lost: Callable[[], None]
    ) -> Connection:
        """A connection over a connected Unix socket, which it owns from now on."""
        end.setblocking(False)
        connection = cls(on_frame, on_lost)
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=end)
        return connection

    def send(self, message: Sequence[Any], blobs: Sequence[memoryview] = ()) -> None:  # Any: JSON values
        """Sends a message; does nothing if the other end is gone.

        Raises:
            BadFrameError: It is too long.
        """
        data = packed(message, blobs)
        if self._transport is not None and not self.is_lost:
            self._transport.write(data)

    async def room(self) -> None:
        """Waits until little is unsent, or the other end is gone."""
        await self._has_room.wait()

    async def close(self) -> None:
        """Ends the connection once everything is sent."""
        if self._transport is not None:
            self._transport.close()
        await self._is_closed.wait()

    def abort(self) -> None:
        """Ends the connection without sending what is unsent."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast("asyncio.Transport", transport)  # in all but name where the event loop is uvloop's
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Hands on what is complete."""
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame)
        except Exception as error:  # noqa: BLE001  # whatever it is, no later frame can be trusted
            _LOG.error("a message cannot be used", exc_info=not isinstance(error, BadFrameError))
            self.abort()

    def pause_writing(self) -> None:
        """Much is unsent."""
        self._has_room.clear()

    def resume_writing(self) -> None:
        """Little is."""
        self._has_room.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the signature of a protocol
        """The other end is gone, or this one was aborted."""
        self.is_lost = True
        self._has_room.set()
        self._is_closed.set()
        self._on_lost()
