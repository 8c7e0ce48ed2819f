"""The worker's side of `orchestrator.isolation`: runs one call after the other until its parent is gone.

Run as a script (never as part of the package, whose imports it does not need). Frames are an 8-byte big-endian length
and a pickle.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pickle
import select
import signal
import sys
from typing import Any, NoReturn

HEADER_BYTES = 8
_MAX_MESSAGE_CHARS = 2000


def main(life_fd: int) -> NoReturn:
    """Serves calls that arrive on what was stdin and answers on what was stdout."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)  # what the called functions print goes to stderr
    die_with(life_fd)
    setup = pickle.loads(_read_frame(requests))  # noqa: S301  # from our own parent
    sys.path[:] = setup["sys_path"]
    if setup["memory_bytes"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    _write_frame(replies, _preloaded(setup["preload"]))
    while True:
        _write_frame(replies, _called(_read_frame(requests)))


def _preloaded(modules: tuple[str, ...]) -> tuple[object, ...]:
    try:
        for name in modules:
            importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001  # reported to the parent
        return ("unimportable", *_described(error))
    return ("ready",)


def _called(request: bytes) -> tuple[object, ...]:
    module, qualname, pickled_args = pickle.loads(request)  # noqa: S301  # from our own parent
    try:
        function: Any = importlib.import_module(module)  # Any: whatever is found there
        for part in qualname.split("."):
            function = getattr(function, part)
        args = pickle.loads(pickled_args)  # noqa: S301  # from our own parent
    except BaseException as error:  # noqa: BLE001  # reported to the parent
        return ("unimportable", *_described(error))
    try:
        return ("value", pickle.dumps(function(*args), protocol=pickle.HIGHEST_PROTOCOL))
    except BaseException as error:  # noqa: BLE001  # reported to the parent
        return ("error", *_described(error))


def _described(error: BaseException) -> tuple[str, str]:
    try:
        message = str(error)[:_MAX_MESSAGE_CHARS]
    except Exception:  # noqa: BLE001  # a __str__ that raises must not hide the error
        message = "(its message cannot be shown)"
    return type(error).__name__, message


def die_with(life_fd: int) -> None:
    """Has the kernel kill this process group when the parent's end of the pipe closes, whatever runs then.

    Unlike PR_SET_PDEATHSIG this does not fire when only the thread that started the worker ends.
    """
    fcntl.fcntl(life_fd, fcntl.F_SETOWN, -os.getpgrp())
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere SIGIO, whose default action is to end the process
        fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)
    now = select.poll()
    now.register(life_fd)
    if now.poll(0):  # the parent died before the kernel was asked
        _end()


def _end() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _read_frame(fd: int) -> bytes:
    return _read_exactly(fd, int.from_bytes(_read_exactly(fd, HEADER_BYTES)))


def _read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(fd, min(size - len(data), 1 << 20))
        if not chunk:
            _end()
        data += chunk
    return bytes(data)


def _write_frame(fd: int, message: tuple[object, ...]) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    view = memoryview(len(data).to_bytes(HEADER_BYTES) + data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        _end()


if __name__ == "__main__":
    main(int(sys.argv[1]))
