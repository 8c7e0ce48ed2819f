"""Runs ``ttc`` for the tests: in this process where nothing has to be killed, else in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.api.cli import main

SCRIPTED = ("--model", "scripted:arithmetic")


@dataclass(frozen=True)
class Finished:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Terminal(io.TextIOWrapper):
    """A stdin that is a terminal, at which nobody types."""

    def isatty(self) -> bool:
        return True


@dataclass
class Shell:
    """A user's shell in a folder of its own.

    Attributes:
        folder: Working folder; relative paths in arguments are below it.
        env: Variables, beside the few that are kept.
    """

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        home = self.folder / "home"
        home.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        self.env = {
            **kept,
            "HOME": str(home),
            "TTC_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.env,
        }

    def __call__(self, *args: str, stdin: bytes | None = b"", env: Mapping[str, str] | None = None) -> Finished:
        """Runs a command in this process; ``stdin`` None is a terminal."""
        out, err = _stream(), _stream()
        given = Terminal(io.BytesIO(b"")) if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        with _in_place(self.folder, {**self.env, **(env or {})}), _undisturbed():
            sys.stdin, old = given, sys.stdin
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = main(args)
            finally:
                sys.stdin = old
        return Finished(code, _text(out), _text(err))

    def run(self, *args: str, stdin: bytes = b"", **options: Any) -> Finished:
        """Runs a command in a process of its own."""
        wanted = {"timeout": 60, **options}
        done = subprocess.run(
            self.command(*args), check=False, input=stdin, capture_output=True, **self.options(wanted)
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Starts a command in a process of its own."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(*args), text=True, **pipes, **self.options({}))

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-c", "import sys; from orchestrator.api.cli import main; sys.exit(main())", *args]

    def options(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return {"cwd": self.folder, "env": self.env, **more}

    @property
    def log(self) -> str:
        """The log file's text."""
        path = self.folder / "home" / ".local" / "state" / "ttc" / "ttc.log"
        return path.read_text() if path.exists() else ""


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@contextlib.contextmanager
def _in_place(folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    old_env, old_folder = dict(os.environ), Path.cwd()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(old_folder)
        os.environ.clear()
        os.environ.update(old_env)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Takes back what a command sets for its whole process."""
    hooks = sys.unraisablehook, threading.excepthook, warnings.showwarning
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks[:2]
        logging.captureWarnings(False)
        warnings.showwarning = hooks[2]
        root = logging.getLogger()
        for handler in [handler for handler in root.handlers if getattr(handler, "is_ttc", False)]:
            root.removeHandler(handler)
            handler.close()
