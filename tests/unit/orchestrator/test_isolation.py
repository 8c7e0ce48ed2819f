import asyncio
import importlib
import math
import operator
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from types import ModuleType

import pytest

from orchestrator.isolation import KillablePool, NotImportable, RemoteError, WorkerDied, importable_name

USER_MODULE = """
import os, subprocess, sys, threading, time

def shout(text):
    print(text * 1000)
    print(text, file=sys.stderr)
    os.write(1, b"raw bytes on descriptor one")
    return text

def fail(message):
    raise LookupError(message)

class Unfriendly(Exception):
    def __str__(self):
        raise RuntimeError("no")

def fail_unfriendly():
    raise Unfriendly

def leave():
    sys.exit(3)

def spawn_and_hang(pid_file):
    child = subprocess.Popen(["sleep", "60"])
    with open(pid_file, "w") as out:
        out.write(str(child.pid))
    time.sleep(60)

def unpicklable():
    return threading.Lock()

def take(block):
    return len(bytearray(block))
"""


@pytest.fixture
def user(tmp_path, monkeypatch) -> Iterator[ModuleType]:
    (tmp_path / "user_checks.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("user_checks")
    del sys.modules["user_checks"]


@pytest.fixture
async def pool() -> AsyncIterator[KillablePool]:
    pool = KillablePool()
    yield pool
    await pool.aclose()


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while is_running(pid):  # noqa: ASYNC110  # processes give no events
            await asyncio.sleep(0.01)


def test_only_functions_that_can_be_found_again_have_an_importable_name():
    def nested() -> None: ...

    assert importable_name(math.sqrt) == "math:sqrt"
    assert importable_name(textwrap.TextWrapper.wrap) == "textwrap:TextWrapper.wrap"
    assert importable_name(lambda: 1) is None
    assert importable_name(nested) is None
    assert importable_name([].append) is None
    assert importable_name(operator.itemgetter(0)) is None
    scripted = type(nested)(nested.__code__, {"__name__": "__main__"})
    scripted.__qualname__ = "scripted"
    assert importable_name(scripted) is None


async def test_a_call_returns_what_the_function_returns_and_the_worker_stays_warm(pool):
    first = await pool.run(os.getpid, timeout_s=5)
    assert first != os.getpid()
    assert await pool.run(os.getpid, timeout_s=5) == first
    assert await pool.run(math.sqrt, 4.0, timeout_s=5) == 2.0


async def test_large_arguments_and_results_cross_the_pipe(pool):
    block = os.urandom(3_000_000)
    assert await pool.run(operator.concat, block, block, timeout_s=10) == block + block


async def test_an_exception_comes_back_with_its_type_and_message(pool, user):
    with pytest.raises(RemoteError) as raised:
        await pool.run(user.fail, "nothing here", timeout_s=5)
    assert (raised.value.type_name, raised.value.reason) == ("LookupError", "nothing here")
    assert raised.value.fields()["code"] == "remote_error"
    with pytest.raises(RemoteError, match="cannot be shown"):
        await pool.run(user.fail_unfriendly, timeout_s=5)
    with pytest.raises(RemoteError, match="SystemExit"):
        await pool.run(user.leave, timeout_s=5)
    with pytest.raises(RemoteError, match="pickle"):
        await pool.run(user.unpicklable, timeout_s=5)


async def test_printing_does_not_corrupt_the_pipe(pool, user, capfd):
    assert await pool.run(user.shout, "hello", timeout_s=5) == "hello"
    assert await pool.run(math.sqrt, 9.0, timeout_s=5) == 3.0
    assert capfd.readouterr().out == ""


async def test_a_call_that_takes_too_long_is_killed_and_replaced(pool):
    before = await pool.run(os.getpid, timeout_s=5)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        await pool.run(re.match, r"(a+)+b", "a" * 64, timeout_s=0.2)  # holds the interpreter's lock
    assert time.monotonic() - started < 2
    await until_gone(before)
    assert await pool.run(os.getpid, timeout_s=5) != before


async def test_a_timeout_kills_the_whole_process_group(pool, user, tmp_path):
    pid_file = tmp_path / "pid"
    with pytest.raises(TimeoutError):
        await pool.run(user.spawn_and_hang, str(pid_file), timeout_s=0.5)
    await until_gone(int(pid_file.read_text()))


async def test_a_crash_is_told_from_an_exception_and_the_worker_is_replaced(pool):
    with pytest.raises(WorkerDied) as raised:
        await pool.run(os._exit, 7, timeout_s=5)
    assert raised.value.exit_code == 7
    with pytest.raises(WorkerDied) as raised:
        await pool.run(signal.raise_signal, signal.SIGKILL, timeout_s=5)
    assert raised.value.exit_code == -signal.SIGKILL
    assert await pool.run(math.sqrt, 4.0, timeout_s=5) == 2.0


async def test_cancelling_the_caller_kills_the_worker(pool):
    pid = await pool.run(os.getpid, timeout_s=5)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pool.run(time.sleep, 60, timeout_s=60))
        await asyncio.sleep(0.1)
        task.cancel()
    await until_gone(pid)
    assert await pool.run(math.sqrt, 4.0, timeout_s=5) == 2.0


async def test_a_worker_killed_while_idle_is_replaced_unnoticed(pool):
    os.kill(pid := await pool.run(os.getpid, timeout_s=5), signal.SIGKILL)
    await until_gone(pid)
    assert await pool.run(os.getpid, timeout_s=5) != pid


async def test_waiting_for_a_free_worker_does_not_count_as_time(pool):
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(pool.run(time.sleep, 0.15, timeout_s=0.4)) for _ in range(5)]
    assert all(call.exception() is None for call in calls)


async def test_cancelled_waiters_leave_the_queue_working(pool):
    async with asyncio.TaskGroup() as group:
        group.create_task(pool.run(time.sleep, 0.2, timeout_s=5))
        await asyncio.sleep(0)
        waiters = [group.create_task(pool.run(math.sqrt, 4.0, timeout_s=5)) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        waiters[2].cancel()
    assert [waiter.cancelled() for waiter in waiters] == [True, False, True]
    assert await pool.run(math.sqrt, 4.0, timeout_s=5) == 2.0


async def test_several_workers_run_at_once():
    pool = KillablePool(num_workers=2)
    await asyncio.wait_for(pool.run(math.sqrt, 4.0, timeout_s=5), 5)
    async with asyncio.TaskGroup() as group:
        pids = [group.create_task(pool.run(os.getpid, timeout_s=5)) for _ in range(2)]
        group.create_task(pool.run(time.sleep, 0.2, timeout_s=5))
    assert len({pid.result() for pid in pids}) == 2
    await pool.aclose()


def test_one_pool_serves_several_event_loops_in_sequence():
    pool = KillablePool()

    async def both() -> int:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(pool.run(os.getpid, timeout_s=5)) for _ in range(2)]
        return calls[0].result()

    assert asyncio.run(both()) == asyncio.run(both())
    asyncio.run(pool.aclose())


def test_a_loop_that_dies_in_the_middle_of_a_call_leaves_the_pool_usable():
    pool = KillablePool()

    async def abandon() -> None:
        tasks = [asyncio.ensure_future(pool.run(time.sleep, 60, timeout_s=60)) for _ in range(2)]
        await asyncio.sleep(0.2)
        del tasks

    asyncio.run(abandon())
    assert asyncio.run(pool.run(math.sqrt, 4.0, timeout_s=5)) == 2.0
    asyncio.run(pool.aclose())


async def test_too_much_memory_is_an_error_of_the_call(user):
    pool = KillablePool(memory_bytes=512 << 20)
    assert await pool.run(user.take, 1 << 20, timeout_s=5) == 1 << 20
    with pytest.raises(RemoteError, match="MemoryError"):
        await pool.run(user.take, 1 << 30, timeout_s=5)
    await pool.aclose()


async def test_what_the_worker_cannot_import_is_said_so(pool, user, tmp_path):
    (tmp_path / "user_checks.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(NotImportable):
        await pool.run(user.leave, timeout_s=5)
    broken = KillablePool(preload=["no_such_module_anywhere"])
    with pytest.raises(NotImportable, match="no_such_module_anywhere"):
        await broken.run(math.sqrt, 4.0, timeout_s=5)
    with pytest.raises(ValueError, match="cannot be imported by name"):
        await pool.run(lambda: 1, timeout_s=5)
    await broken.aclose()


async def test_preloaded_modules_are_there_and_closing_kills_all():
    pool = KillablePool(preload=["wave"])
    await pool.warm()
    pid = await pool.run(os.getpid, timeout_s=5)
    await pool.aclose()
    await pool.aclose()
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(os.getpid, timeout_s=5)


async def test_closing_ends_running_and_waiting_calls(pool):
    async def outcome(seconds: float) -> BaseException | None:
        try:
            await pool.run(time.sleep, seconds, timeout_s=60)
        except (WorkerDied, RuntimeError) as error:
            return error
        return None

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(60)) for _ in range(3)]
        await asyncio.sleep(0.2)
        await pool.aclose()
    assert [type(task.result()) for task in tasks] == [WorkerDied, RuntimeError, RuntimeError]


PARENT = """
import asyncio, os, re, signal
from orchestrator.isolation import KillablePool

async def main():
    pool = KillablePool()
    print(await pool.run(os.getpid, timeout_s=9), flush=True)
    asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGKILL)
    await pool.run(re.match, "(a+)+b", "a" * 64, timeout_s=60)

asyncio.run(main())
"""


def test_workers_die_with_their_parent_even_inside_a_hanging_call():
    parent = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=30, check=False)
    assert parent.returncode == -signal.SIGKILL
    asyncio.run(until_gone(int(parent.stdout)))


async def test_a_blocking_call_shares_the_workers_of_the_others(pool):
    pid = pool.run_blocking(os.getpid, timeout_s=5)
    assert await pool.run(os.getpid, timeout_s=5) == pid
    with pytest.raises(TimeoutError):
        pool.run_blocking(re.match, r"(a+)+b", "a" * 64, timeout_s=0.2)
    with pytest.raises(WorkerDied):
        pool.run_blocking(os._exit, 1, timeout_s=5)
    with pytest.raises(RemoteError, match="math domain"):
        pool.run_blocking(math.sqrt, -1.0, timeout_s=5)
    block = os.urandom(1_000_000)
    assert pool.run_blocking(operator.concat, block, block, timeout_s=5) == block + block
