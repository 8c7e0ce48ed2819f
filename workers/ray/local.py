"""A Ray of one machine, started and ended by ``ttc fleet``.

Ray listens on all addresses of a machine, and whoever reaches it can run anything. So this one has a token of its own,
which only its user can read, and answers nobody without it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from orchestrator.errors import EngineFailed, InvalidRequest, MissingDependency
from orchestrator.fleet_file import ClusterEntry
from orchestrator.local_cluster import LocalCluster, forget_local, read_local, write_local

_HOST = "127.0.0.1"
_STAYS = "127.0.0.2" if sys.platform == "linux" else None
"""Where its node is: Ray would put 127.0.0.1 aside for the address in the network, which a laptop changes."""
_START_S = 300.0
_STOP_S = 20.0
_LOOK_AGAIN_S = 0.1
_ATTEMPTS = 3
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TIMED_OUT = "timed out during startup"
"""What Ray says then."""
_MAX_FOLDER = 40
"""Ray keeps sockets in its folder, and the path of a socket has 107 bytes at most."""


def require_ray() -> None:
    """Refuses to go on without Ray.

    Raises:
        MissingDependency: It is not installed.
    """
    if find_spec("ray") is None:
        raise MissingDependency(package="ray", extra="ray", purpose="a fleet on a cluster")


def is_reachable(address: str, *, timeout_s: float = 5.0) -> bool:
    """Whether something listens at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def running(namespace: str) -> LocalCluster | None:
    """The fleet's Ray of this machine, if it runs."""
    noted = read_local(namespace)
    if noted is None or not _is_keeper(noted) or not is_reachable(noted.address):
        return None
    return noted


def start(cluster: ClusterEntry, *, start_s: float = _START_S) -> LocalCluster:
    """Starts a Ray for the fleet, or finds the one that runs.

    Its processes inherit this one's environment, so that ``${NAME}`` in arguments of engines means the same there.

    Args:
        cluster: How large it is.
        start_s: It has to answer within.

    Raises:
        MissingDependency: Ray is not installed.
        EngineFailed: It did not start; the message holds what Ray said last.
    """
    require_ray()
    folder = _folder()
    with _alone(folder / f"{cluster.namespace}.lock"):
        if (known := running(cluster.namespace)) is not None:
            return known
        for attempt in range(_ATTEMPTS):
            try:
                return _start(cluster, folder, start_s=start_s)
            except EngineFailed as failed:  # Ray gives its own processes half a minute, which a busy machine exceeds
                if attempt == _ATTEMPTS - 1 or _TIMED_OUT not in failed.message:
                    raise
        raise AssertionError("the last attempt returns or raises")


def _start(cluster: ClusterEntry, folder: Path, *, start_s: float) -> LocalCluster:
    stop(cluster.namespace)
    address = f"{_STAYS or _HOST}:{_free_port()}"
    token_file = _new_token(folder / f"{cluster.namespace}.token")
    log = folder / f"{cluster.namespace}.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter, Ray's module
            _command(cluster, address=address, folder=_session_folder(folder, address)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **token_variables(token_file), "RAY_USAGE_STATS_ENABLED": "0"},
        )
    started = LocalCluster(address, process.pid, str(token_file))
    write_local(cluster.namespace, started)
    try:
        _await(process, address=address, log=log, deadline=time.monotonic() + start_s)
    except BaseException:
        stop(cluster.namespace)
        raise
    return started


def _await(process: subprocess.Popen[bytes], *, address: str, log: Path, deadline: float) -> None:
    """Returns when Ray has started.

    Raises:
        EngineFailed: It has not.
    """
    while "Ray runtime started" not in _text(log) or not is_reachable(address, timeout_s=1):
        if (code := process.poll()) is not None:
            raise EngineFailed(f"Ray did not start on this machine (exit code {code}): {_last_words(log)}", model="ray")
        if time.monotonic() > deadline:
            raise EngineFailed(f"Ray did not start on this machine in time; its log is {log}", model="ray")
        time.sleep(_LOOK_AGAIN_S)


def stop(namespace: str, *, stop_s: float = _STOP_S) -> bool:
    """Ends the fleet's Ray of this machine, with all that runs on it; whether there was one.

    Args:
        namespace: The fleet's.
        stop_s: It is killed if it has not ended by itself within.
    """
    noted = read_local(namespace)
    if noted is None:
        return False
    is_there = _is_keeper(noted)
    if is_there:
        _signal(noted.pid, signal.SIGTERM)
        deadline = time.monotonic() + stop_s
        while _is_keeper(noted) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN_S)
        if _is_keeper(noted):
            _signal(noted.pid, signal.SIGKILL)  # Ray's reaper ends what is left
    forget_local(namespace)
    token_file = Path(noted.token_file)
    token_file.unlink(missing_ok=True)
    shutil.rmtree(_session_folder(token_file.parent, noted.address), ignore_errors=True)
    return is_there


def _command(cluster: ClusterEntry, *, address: str, folder: Path) -> list[str]:
    port = address.rpartition(":")[2]
    options = {
        "--node-ip-address": _STAYS,
        "--port": port,
        "--num-cpus": cluster.cpus,
        "--num-gpus": cluster.gpus,
        "--object-store-memory": cluster.object_store_mib << 20,
        "--ray-client-server-port": _free_port(),  # the usual one may be another Ray's
        "--include-log-monitor": "false",  # nobody here shows what replicas print
        "--include-dashboard": "false" if cluster.dashboard_port is None else "true",
        "--dashboard-host": None if cluster.dashboard_port is None else _HOST,
        "--dashboard-port": cluster.dashboard_port,
        "--dashboard-agent-listen-port": _free_port(),
        "--dashboard-agent-grpc-port": _free_port(),
        "--temp-dir": folder,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *given]


def _folder() -> Path:
    """A folder of this user's for Ray's sockets and logs, which nobody else can have prepared.

    Raises:
        InvalidRequest: Somebody else has.
    """
    base = tempfile.gettempdir()
    folder = Path(base if len(base) <= _MAX_FOLDER else "/tmp") / f"ttc-ray-{os.getuid()}"  # noqa: S108  # looked at below
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InvalidRequest(
            f"{folder} belongs to somebody else; set TMPDIR to a folder of your own", field="TMPDIR", value=str(folder)
        )
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time; it ends with the process, whatever happens."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _session_folder(folder: Path, address: str) -> Path:
    """Where one Ray writes; a short path, because of its sockets."""
    return folder / address.rpartition(":")[2]


def token_variables(token_file: Path | str) -> dict[str, str]:
    """Variables of a process that may join."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file)}


def _new_token(file: Path) -> Path:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(secrets.token_hex(32))
    return file


def _free_port() -> int:
    with socket.create_server((_HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_keeper(noted: LocalCluster) -> bool:
    """Whether the process is still the one that was started: numbers of processes are used again."""
    shown = subprocess.run(  # noqa: S603  # a number is all that is passed
        ["ps", "-ww", "-o", "stat=,command=", "-p", str(noted.pid)],  # noqa: S607  # wherever the system has it
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    ).stdout.strip()
    return not shown.startswith("Z") and f"--port={noted.address.rpartition(':')[2]}" in shown


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _text(log: Path) -> str:
    return _COLOUR.sub("", log.read_text(encoding="utf-8", errors="replace"))


def _last_words(log: Path) -> str:
    """What was raised in the end, else what was said last; what goes to the log by two ways is not in order there."""
    lines = [line.strip() for line in _text(log).splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"[\w.]*(?:Error|Exception): ", line)]
    return (raised or lines or [f"it said nothing; its log is {log}"])[-1]
