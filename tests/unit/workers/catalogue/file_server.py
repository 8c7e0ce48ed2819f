"""An HTTP server that serves one file, with the accidents a download can meet."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``data`` at every path.

    Attributes:
        ranges: The Range header of each request, in order.
        cut_after: Bytes after which the next replies break off, one entry each.
        statuses: Statuses to answer the next requests with instead of the file.
        honours_range: Whether parts of the file can be had.
        redirect_to: Address to send everyone to.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[str | None] = []
        self.authorizations: list[str | None] = []
        self.cut_after: list[int] = []
        self.statuses: list[int] = []
        self.honours_range = True
        self.redirect_to = ""
        self.pause = threading.Event()
        self.pause.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._reply(self)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self.pause.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _reply(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        self.authorizations.append(handler.headers.get("Authorization"))
        self.pause.wait(10)
        if self.redirect_to:
            handler.send_response(302)
            handler.send_header("Location", self.redirect_to)
            handler.end_headers()
            return
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.honours_range else 0
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(self.data) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        handler.end_headers()
        end = start + self.cut_after.pop(0) if self.cut_after else len(self.data)
        handler.wfile.write(self.data[start:end])
