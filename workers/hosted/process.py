"""The host process as its parent sees it: how it is started, what it inherits, how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from typing import Any

from orchestrator.config import Settings

_INHERITED = (
    "HOME", "HOSTNAME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONHASHSEED", "PYTHONPATH",
    "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME",
)  # fmt: skip
_INHERITED_BEGINNINGS = (
    "CUDA_",
    "GGML_",
    "GOMP_",
    "HIP_",
    "KMP_",
    "LC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "ROCR_",
)
_SECRETIVE = ("CREDENTIAL", "KEY", "PASSWORD", "SECRET", "TOKEN")
_REAP_S = 5.0


class HostProcess:
    """One child process, in a session of its own, that ends with this one.

    Args:
        environment: All it inherits of the environment; see `host_environment`.

    Attributes:
        channel: Our end of the socket that carries streams and calls; whoever uses it closes it.
        vocabulary_channel: Our end of the one for calls that block.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.channel, their_channel = socket.socketpair()
        self.vocabulary_channel, their_vocabulary = socket.socketpair()
        child_life, life = os.pipe()  # the kernel kills the child's group when our end closes
        theirs = (their_channel.fileno(), their_vocabulary.fileno(), child_life)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-P", "-m", "orchestrator.workers.hosted", *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what the engine prints belongs to the log
                pass_fds=theirs,
                start_new_session=True,
                env=dict(environment),
            )
        except BaseException:
            os.close(life)
            self.channel.close()
            self.vocabulary_channel.close()
            raise
        finally:
            their_channel.close()
            their_vocabulary.close()
            os.close(child_life)
        self._finalizer = weakref.finalize(self, _kill_and_wait, self._process, life)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Kills it with everything it has started; returns before it is gone."""
        _kill(self._process)

    async def ended(self, *, within_s: float) -> str:
        """Waits for its end, kills it if that takes too long, and says how it ended."""
        deadline = time.monotonic() + within_s
        while (code := self._process.poll()) is None and time.monotonic() < deadline:  # noqa: ASYNC110  # a process has no event
            await asyncio.sleep(0.005)
        if code is None:
            self.kill()
            deadline = time.monotonic() + _REAP_S
            while (code := self._process.poll()) is None and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        if code is not None:
            self._finalizer()
        return _ending(code)


def _ending(code: int | None) -> str:
    if code is None:
        return "cannot be ended"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone; macOS denies killing a zombie
            os.killpg(process.pid, signal.SIGKILL)


def _kill_and_wait(process: subprocess.Popen[bytes], life: int) -> None:
    """When the process has ended, or is dropped, or the interpreter ends."""
    os.close(life)
    _kill(process)
    process.wait()


def host_environment(settings: Settings) -> dict[str, str]:
    """What a host inherits of the environment: what programs need to run and to compute, nothing that may be a secret.

    Settings reach it in its first message; the catalogue of models reads those that it needs from variables.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in _INHERITED or name.startswith(_INHERITED_BEGINNINGS))
        and not any(word in name for word in _SECRETIVE)
    }
    for name in ("cache_dir", "catalogue"):
        if (path := getattr(settings, name)) is not None:
            kept[f"TTC_{name.upper()}"] = str(path)
    kept["TTC_OFFLINE"] = "1" if settings.offline else "0"
    kept["XDG_CONFIG_HOME"] = os.devnull  # no configuration file: it may hold keys
    return kept


def host_settings(settings: Settings, engine: str) -> dict[str, Any]:  # Any: JSON values
    """The settings that the host of an engine needs; a key only goes to the engine it is for."""
    hidden = {"openai", "service", "store"}
    given: dict[str, Any] = settings.model_dump(mode="json", exclude_unset=True, exclude=hidden)
    if engine == "openai":
        given["openai"] = settings.openai.model_dump(mode="json", exclude_unset=True)
        if settings.openai.api_key is not None:
            given["openai"]["api_key"] = settings.openai.api_key.get_secret_value()
    return given
