"""Load from `wrk`: chats sent by so many clients, each one after another, and what wrk says of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
_TIME = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)\s*$", re.MULTILINE)
_DONE = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m)")
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKETS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


class Load(NamedTuple):
    """What came of a load.

    Attributes:
        num_requests: Answered.
        seconds: That it took.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        num_failed: Answers that were no success, and connections that broke or timed out.
    """

    num_requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    num_failed: int


def is_installed() -> bool:
    """Whether there is a wrk."""
    return shutil.which("wrk") is not None


def script(body: dict[str, Any]) -> str:
    """A Lua script that has wrk post this body."""
    text = json.dumps(body)
    level = "=" * 4
    return (
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [{level}[{text}]{level}]\n'
    )


def load(url: str, body: dict[str, Any], *, clients: int, seconds: float, folder: Path) -> Load:
    """Posts ``body`` to ``url`` for so long.

    Raises:
        ValueError: wrk said something else than expected, for instance that it cannot connect.
    """
    path = folder / "post.lua"
    path.write_text(script(body), encoding="utf-8")
    words = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "--latency"]
    done = subprocess.run([*words, "-s", str(path), url], capture_output=True, text=True, check=False)  # noqa: S603  # our own
    return parsed(done.stdout + done.stderr)


def parsed(text: str) -> Load:
    """What wrk printed.

    Raises:
        ValueError: It is something else.
    """
    done, times = (
        _DONE.search(text),
        {number: float(value) * _UNITS[unit] for number, value, unit in _TIME.findall(text)},
    )
    if done is None or times.keys() != {"50", "99"}:
        raise ValueError(f"wrk said: {text[-500:]}")
    bad, sockets = _BAD.search(text), _SOCKETS.search(text)
    num_failed = (int(bad[1]) if bad else 0) + sum(map(int, sockets.groups() if sockets else ()))
    return Load(int(done[1]), float(done[2]) * _UNITS[done[3]] / 1e3, times["50"], times["99"], num_failed)
