"""Where log records of a command go: to a file that is made when there is something to write; never to the terminal.

``TTC_DEBUG=1`` sends them to stderr as well.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_LOG = logging.getLogger("orchestrator")
_MAX_BYTES = 1 << 20
_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"


def is_debugging() -> bool:
    """Whether ``TTC_DEBUG`` is set."""
    return os.environ.get("TTC_DEBUG", "") not in {"", "0", "false", "no"}


def send_logs_to_file() -> Path | None:
    """Routes logs, warnings and stray exceptions to ``ttc/ttc.log`` in the user's state folder.

    Returns:
        The file; None if the folder cannot be written.
    """
    logging.captureWarnings(True)
    sys.unraisablehook = _note_unraisable
    threading.excepthook = _note_thread
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if getattr(handler, "is_ttc", False)]:
        root.removeHandler(old)
        old.close()
    path = _path()
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if path is not None:
        handlers.append(RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=1, delay=True, encoding="utf-8"))
    if is_debugging():
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        handler.setLevel(logging.INFO if is_debugging() else logging.WARNING)
        handler.is_ttc = True  # type: ignore[attr-defined]  # found again when a process runs several commands
        root.addHandler(handler)
    return path


def _path() -> Path | None:
    base = os.environ.get("XDG_STATE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".local" / "state") / "ttc"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    path = folder / "ttc.log"
    return path if os.access(path if path.exists() else folder, os.W_OK) else None


def _note_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    info = _info(unraisable.exc_value, unraisable.exc_traceback)
    _LOG.warning("exception nobody could catch", exc_info=info)


def _note_thread(failed: threading.ExceptHookArgs) -> None:
    _LOG.error("exception ended a thread", exc_info=_info(failed.exc_value, failed.exc_traceback))


def _info(
    error: BaseException | None, traceback: TracebackType | None
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    return None if error is None else (type(error), error, traceback)
