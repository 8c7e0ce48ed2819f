"""The host process: ``python -m orchestrator.workers.hosted SOCKET VOCABULARY_SOCKET LIFELINE`` (descriptors).

Started by `orchestrator.workers.hosted.process`; not for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest
from orchestrator.isolation_child import die_with
from orchestrator.workers.hosted.connection import Connection
from orchestrator.workers.hosted.frames import Frame
from orchestrator.workers.hosted.protocol import error_data
from orchestrator.workers.hosted.serving import Host

_LOG = logging.getLogger(__name__)

_OOM_SCORE = "500"
"""Where memory runs out, the kernel should end this process rather than the service (proc(5), oom_score_adj)."""


def main(descriptors: list[str]) -> None:
    """Serves the parent at the other end of the sockets until it says good-bye or is gone."""
    sockets = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors[:2]]
    die_with(int(descriptors[2]))
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent, which got it too, decides when this process ends
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    asyncio.run(live(*sockets))


async def live(channel: socket.socket, vocabulary_channel: socket.socket) -> None:
    """Opens the engine that the first message names, and serves it."""
    first: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
    host: Host | None = None  # set below

    def take(frame: Frame) -> None:
        if host is not None:
            host.take(frame)
        elif not first.done():
            first.set_result(frame)

    def lost() -> None:
        if host is not None:
            host.is_over.set()
        elif not first.done():
            first.cancel()

    connection = await Connection.over(channel, take, lost)
    _, opener, target, settings, path, level = (await first).message
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s host of {target}: %(name)s: %(message)s")
    sys.path[:] = path
    try:
        engine = await _opened(opener, target, _settings(settings))
    except Exception as error:  # noqa: BLE001  # the parent is told
        connection.send(["failed", error_data(error, model=target)])
        await connection.close()
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            host = Host(engine, tasks)
            await _serve(host, connection, vocabulary_channel)
            for task in host.tasks():
                task.cancel()
    finally:
        await engine.aclose()


async def _serve(host: Host, connection: Connection, vocabulary_channel: socket.socket) -> None:
    host.attach(connection)
    vocabulary: Connection

    def answer(frame: Frame) -> None:
        host.answer_at_once(frame, vocabulary)

    vocabulary = await Connection.over(vocabulary_channel, answer, host.is_over.set)
    connection.send(host.opened())
    await host.is_over.wait()


async def _opened(opener: str, target: str, settings: Settings) -> Engine:
    module, _, name = opener.partition(":")
    found = getattr(importlib.import_module(module), name)(target, settings)
    engine = await found if inspect.isawaitable(found) else found
    if not isinstance(engine, Engine):
        raise InvalidRequest(f"{opener} gave {engine!r:.100}, which is no engine", field="model", value=target)
    return engine


def _settings(given: dict[str, Any]) -> Settings:  # Any: JSON values
    """As the parent has them; no variable and no file is read here."""
    kinds = {name: field.annotation for name, field in Settings.model_fields.items()}
    values = dict(given)
    for name, value in given.items():
        kind = kinds.get(name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            values[name] = kind(**value)
    for name in ("cache_dir", "catalogue"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    return Settings.model_construct(**values)


if __name__ == "__main__":
    main(sys.argv[1:])
