"""Several processes of the service behind one address: started and ended together, started again when one dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator.api.service.observing import forget_process, shared_between_processes
from orchestrator.api.service.process import CTRL_C, Serving, own_listener, run, serve
from orchestrator.api.terminal import failures
from orchestrator.api.terminal.log import send_logs_to_file

if TYPE_CHECKING:
    from orchestrator.in_process import Orchestrator

_YOUNG_S = 5.0
"""A process that dies so soon will not do better when it is started again at once."""


def serve_in_processes(serving: Serving, listener: socket.socket, *, num_processes: int) -> int:
    """Runs processes that all listen at one address until a signal comes; returns the exit code.

    A process that dies is started again; if one cannot even begin, all are ended with its exit code.
    """
    group = _Processes(replace(serving, is_worker=True), listener)
    with _signals(group), shared_between_processes():
        for _ in range(num_processes):
            group.start()
        listener.close()
        return group.watch()


class _Processes:
    def __init__(self, serving: Serving, listener: socket.socket) -> None:
        self._serving = serving
        self._listener = listener.dup()
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[SpawnProcess, float] = {}
        self._signal_number: int | None = None
        self._exit_code = 0

    def start(self) -> None:
        process = self._context.Process(target=_work, args=(self._serving, self._listener), name="ttc serve")
        process.start()
        self._processes[process] = time.monotonic()

    def watch(self) -> int:
        """Returns when all have ended."""
        while self._processes:
            multiprocessing.connection.wait([process.sentinel for process in self._processes], timeout=1.0)
            for process in [process for process in self._processes if process.exitcode is not None]:
                self._note_end(process)
        self._listener.close()
        if self._signal_number is not None:
            return CTRL_C if self._signal_number == signal.SIGINT else self._exit_code
        return self._exit_code

    def stop(self, number: int) -> None:
        """Ends all, gently when called first, at once when called again."""
        is_first, self._signal_number = self._signal_number is None, self._signal_number or number
        for process in self._processes:
            if is_first:
                process.terminate()
            else:
                process.kill()

    def _note_end(self, process: SpawnProcess) -> None:
        age_s = time.monotonic() - self._processes.pop(process)
        code = process.exitcode or 0
        if process.pid is not None:
            forget_process(process.pid)
        process.close()
        if self._signal_number is not None:
            self._exit_code = self._exit_code or max(code, 0)
        elif age_s < _YOUNG_S:
            self._exit_code = code if code > 0 else 1
            self.stop(signal.SIGTERM)
        else:
            print(f"a process died (exit code {code}) and is started again", file=sys.stderr, flush=True)
            self.start()


@contextlib.contextmanager
def _signals(group: _Processes) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of handlers
        group.stop(number)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _work(serving: Serving, listener: socket.socket) -> None:
    """What each process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log_file = send_logs_to_file()

    def ready(orchestrator: Orchestrator, is_open: bool) -> None:  # noqa: ARG001  # the parent has said all
        return

    try:
        sys.exit(run(serve(serving, own_listener(listener), on_ready=ready)))
    except Exception as error:  # noqa: BLE001  # nothing but a line may reach the user
        sys.exit(failures.report(error, as_json=False, log_file=log_file))
