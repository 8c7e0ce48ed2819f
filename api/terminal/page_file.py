"""The file that a trace page goes to: checked before anything is spent, replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import InvalidRequest


def check_writable(path: Path) -> None:
    """Makes sure that the file can be written.

    Raises:
        InvalidRequest: It cannot.
    """
    try:
        is_new = not path.exists()
        with path.open("ab"):
            pass
        if is_new:
            path.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def write_page(path: Path, page: str) -> None:
    """Writes the page; an existing file is replaced at once.

    Raises:
        InvalidRequest: It cannot be written.
    """
    is_device = path.exists() and not path.is_file()  # /dev/stdout, a pipe
    scratch = path if is_device else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(page, encoding="utf-8")
        if not is_device:
            scratch.replace(path)
    except OSError as error:
        if not is_device:
            scratch.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError | ValueError) -> InvalidRequest:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidRequest(f"cannot write --trace {str(path)!r}: {reason}", field="trace", value=str(path))
