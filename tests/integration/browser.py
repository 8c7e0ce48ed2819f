"""A headless Chromium that is told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--remote-debugging-port=0", "--hide-scrollbars"),
)
START_S = 60.0
LOAD_S = 60.0


@dataclass
class Tab:
    """One page of a browser.

    Attributes:
        problems: What the page has thrown, logged or complained about.
        requests: Addresses it has asked for.
    """

    socket: aiohttp.ClientWebSocketResponse
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _num_calls: int = 0

    async def call(self, method: str, **params: object) -> Any:
        """Sends a command; returns its result."""
        self._num_calls += 1
        await self.socket.send_json({"id": self._num_calls, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json()
            if message.get("id") == self._num_calls:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message["method"] in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}:
            self.problems.append(str(message["params"]))
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])

    async def open(self, page: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Shows a page on a screen of that size; a narrow one is a phone's."""
        await self.visit(page.as_uri(), width=width, height=height, scheme=scheme)

    async def visit(self, address: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Shows what is at an address."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.navigate", url=address)
        await self.until(f"document.readyState + location.href === 'complete' + {json.dumps(address)}")

    async def until(self, script: str) -> None:
        """Waits until an expression is true."""
        deadline = time.monotonic() + LOAD_S
        while not await self.run(script):
            assert time.monotonic() < deadline, script
            await asyncio.sleep(0.05)

    async def run(self, script: str) -> Any:
        """What an expression gives, as JSON values."""
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Presses and releases a key."""
        event: dict[str, object] = {"key": key, "code": key, "modifiers": 8 if shift else 0}
        if key == "Enter" or (len(key) == 1 and key != " "):
            event["text"] = "\r" if key == "Enter" else key
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        event["windowsVirtualKeyCode"] = codes.get(key) or ord(key.upper())
        for kind in ("keyDown" if "text" in event else "rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, **event)

    async def picture(self) -> bytes:
        """The whole page as a PNG file."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextlib.contextmanager
def running_browser(profile: Path) -> Iterator[str]:
    """A browser with one empty page, for as long as the context is open; gives the address of its protocol."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + START_S
            while not port_file.exists() or "\n" not in port_file.read_text():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port_file.read_text().split()[0]}"
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def tab_of(address: str) -> AsyncIterator[Tab]:
    """The page of a running browser."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/json") as reply:
            tabs = await reply.json()
        page = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(page, max_msg_size=0) as socket:
            yield Tab(socket)
