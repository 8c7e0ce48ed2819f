"""Connections that are closed when a request's headers do not arrive in time; uvicorn itself would wait for ever."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from orchestrator.api.service.errors import error_body
from orchestrator.errors import InvalidRequest

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

_CLOSING = (("Connection", "close"), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
MAX_HEADER_BYTES = 32 << 10
"""Of all headers of a request together; uvicorn's ``h11_max_incomplete_event_size``."""


def impatient_protocol(header_timeout_s: float) -> type[H11Protocol]:
    """A protocol for uvicorn's ``http`` setting.

    Args:
        header_timeout_s: A connection that has sent no request after so long, counted from its beginning or from the
            last response, is closed.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    body = json.dumps(error_body(InvalidRequest("this cannot be read as HTTP/1.1", field="request"))).encode()

    class ImpatientProtocol(H11Protocol):
        """Waits ``header_timeout_s`` for headers."""

        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_asked():
                self._stop_waiting()
            elif self._patience is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # as in uvicorn
            """Refuses what is no HTTP, in the shape of all errors; what is under way already is cut off."""
            if self.conn.our_state is h11.SEND_RESPONSE or self.conn.our_state is h11.IDLE:
                headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *_CLOSING]
                for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _is_asked(self) -> bool:
            """Whether there is a request that is being answered."""
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._patience = self.loop.call_later(header_timeout_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            self._patience = None
            if not self._is_asked() and not self.transport.is_closing():
                self.transport.close()

    return ImpatientProtocol
