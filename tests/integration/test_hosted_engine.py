"""Hosts that die, hang, or cannot be started; what they inherit; what happens to the requests they were serving."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Budget, Orchestrator
from orchestrator.config import OpenAISettings, Settings
from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    Tokenizes,
)
from orchestrator.errors import EngineFailed, InvalidRequest, ModelUnavailable, UnknownName
from orchestrator.models import open_model
from orchestrator.testing.transcript import Transcript
from orchestrator.workers.hosted import HostedEngine, Pacing, open_engine

pytestmark = [pytest.mark.server, pytest.mark.timeout(90)]

ENGINES_TO_HOST = Path(__file__).parents[1] / "unit" / "workers" / "hosted"
QUICK = Pacing(start_s=30, ping_every_s=0.1, ping_patience_s=1.0, first_delay_s=0.1, longest_delay_s=0.4, wait_s=30)


@asynccontextmanager
async def hosting(name: str, target: str = "model", *, pacing: Pacing = QUICK, **options: Any) -> AsyncIterator[Any]:
    """An engine of `engines_to_host` in a process of its own. Any: its class depends on its abilities."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ENGINES_TO_HOST))
        engine = await open_engine(target, opener=f"engines_to_host:{name}", pacing=pacing, **options)
        try:
            yield engine
        finally:
            await engine.aclose()


def asking(name: str, *max_tokens: int, text: str = "Talk.", **options: Any) -> GenerateRequest:
    samples = tuple(SampleSpec(seed, limit) for seed, limit in enumerate(max_tokens))
    return GenerateRequest(request_id=name, prompt=Prompt((Message("user", text),)), samples=samples, **options)


def kill(engine: HostedEngine, number: int = signal.SIGKILL) -> None:
    assert engine.host_pid is not None
    os.kill(engine.host_pid, number)


async def replaced(engine: HostedEngine) -> None:
    """Kills its host and waits for the next one."""
    pid = engine.host_pid
    kill(engine)
    await until(lambda: engine.host_pid not in {None, pid})


async def until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # processes have no events
            await asyncio.sleep(0.01)


async def failure_of(engine: Engine, request: GenerateRequest, begun: asyncio.Semaphore | None = None) -> EngineFailed:
    """The error with which a stream ends after its first delta."""
    try:
        async for event in engine.generate(request):
            if isinstance(event, Delta) and begun is not None:
                begun.release()
                begun = None
    except EngineFailed as error:
        return error
    raise AssertionError("the stream ended well")


async def test_a_host_killed_under_eight_requests_fails_them_retryably_and_the_next_ones_are_served() -> None:
    async with hosting("slow_babbler") as engine:
        begun = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(failure_of(engine, asking(f"r{k}", 3000, 3000), begun)) for k in range(8)]
            for _ in tasks:
                await begun.acquire()
            await asyncio.sleep(0.25)  # a ping has seen them
            first_pid = engine.host_pid
            kill(engine)
            killed_at = time.monotonic()
        errors = [task.result() for task in tasks]
        assert all(error.is_retryable and error.model == "scripted" for error in errors)
        assert "SIGKILL" in errors[0].message
        assert time.monotonic() - killed_at < 5
        served = await Transcript.of(engine, asking("next", 20))
        assert served.only.num_tokens == 20
        assert engine.host_pid not in {None, first_pid}
        health = await engine.health()
        assert health.is_ready
        assert health.requests >= 9, "totals go on over the deaths of hosts"
        await engine.check_integrity()


async def test_a_job_whose_host_is_killed_ends_with_the_right_answer() -> None:
    async with hosting("slow") as engine, Orchestrator(engine, store="memory:") as ttc:

        async def kill_when_busy() -> None:
            for _ in range(2):
                await until(lambda: engine._live)
                await asyncio.sleep(0.05)
                await replaced(engine)

        async with asyncio.TaskGroup() as group:
            killer = group.create_task(kill_when_busy())
            result = await ttc.solve(
                "What is 3 + 4 * 2 - 5 + 6 * 7?",
                policy="self_consistency",
                params={"n": 4},
                budget=Budget(max_output_tokens=4000),
            )
        assert killer.done()
        assert result.answer is not None
        assert result.answer.text == "48"


async def test_a_host_that_does_not_answer_is_killed_and_replaced() -> None:
    async with hosting("confessing") as engine:
        pid = engine.host_pid
        error = await failure_of(engine, asking("hang", 10, text="block"))
        assert error.is_retryable
        assert "did not answer for 1 s" in error.message
        assert (await Transcript.of(engine, asking("next", 5))).num_tokens == 5
        assert engine.host_pid != pid


async def test_a_stopped_host_is_killed_and_calls_about_the_vocabulary_do_not_wait_for_it() -> None:
    async with hosting(
        "slow_babbler", pacing=Pacing(ping_every_s=0.3, ping_patience_s=1, vocabulary_patience_s=0.2)
    ) as engine:
        assert isinstance(engine, Tokenizes)
        prompt = Prompt((Message("user", "Count me."),))
        exact = engine.count_prompt_tokens(prompt)
        other = Prompt((Message("user", "Count me, too."),))
        pid = engine.host_pid
        kill(engine, signal.SIGSTOP)
        started = time.monotonic()
        assert engine.count_prompt_tokens(prompt) == exact, "what is known need not be asked"
        bounds = {engine.count_prompt_tokens(other) for _ in range(50)}
        assert time.monotonic() - started < 0.4, "it is not waited for again and again"
        with pytest.raises(EngineFailed, match="does not answer"):
            engine.tokenize("some text")
        await until(lambda: engine.host_pid not in {None, pid})
        assert engine.count_prompt_tokens(other) <= min(bounds)
        assert engine.tokenize("some text")


async def test_a_host_that_dies_while_it_is_asked_how_it_is_is_replaced_at_once() -> None:
    async with hosting("slow_babbler", pacing=Pacing(ping_every_s=0.05, ping_patience_s=60)) as engine:
        pid = engine.host_pid
        kill(engine, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        kill(engine)
        await until(lambda: engine.host_pid not in {None, pid})
        assert (await Transcript.of(engine, asking("next", 5))).num_tokens == 5


async def test_a_host_that_dies_while_its_parent_is_busy_is_replaced_as_soon_as_it_is_not() -> None:
    async with hosting("slow_babbler", pacing=Pacing(ping_every_s=0.3, ping_patience_s=60)) as engine:
        pid = engine.host_pid
        await asyncio.sleep(0.05)
        kill(engine)
        time.sleep(0.6)  # noqa: ASYNC251  # the next ping is due, and the death is to be noticed, in the same moment
        await until(lambda: engine.host_pid not in {None, pid})
        assert (await Transcript.of(engine, asking("next", 5))).num_tokens == 5


async def test_an_abort_in_the_engine_is_a_retryable_failure() -> None:
    async with hosting("confessing") as engine:
        error = await failure_of(engine, asking("abort", 10, text="abort"))
        assert error.is_retryable
        assert "SIGABRT" in error.message


async def test_what_an_engine_should_not_raise_is_a_failure_without_a_stack_trace() -> None:
    async with hosting("confessing") as engine:
        error = await failure_of(engine, asking("raise", 10, text="raise"))
        assert not error.is_retryable
        assert "never heard of it" in error.message
        assert "Traceback" not in str(error.fields())
        assert (await Transcript.of(engine, asking("next", 5))).num_tokens == 5


async def test_requests_wait_for_a_host_that_cannot_be_started_for_a_while(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.touch()
    async with hosting("absent", str(model)) as engine:
        model.unlink()
        kill(engine)
        await until(lambda: engine.host_pid is None)
        with pytest.raises(EngineFailed, match="no model file") as caught:
            await Transcript.of(engine, asking("early", 5))
        assert caught.value.is_retryable
        health = await engine.health()
        assert not health.is_ready
        assert "in a row" in health.detail
        model.touch()
        async with asyncio.timeout(20):
            while True:
                with suppress(EngineFailed):
                    assert (await Transcript.of(engine, asking("late", 5))).num_tokens == 5
                    break
        assert (await engine.health()).is_ready


async def test_who_waits_for_a_host_may_cancel_and_a_deadline_ends_the_waiting(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.touch()
    pacing = Pacing(ping_every_s=0.1, first_delay_s=5, longest_delay_s=5, wait_s=30)
    async with hosting("absent", str(model), pacing=pacing) as engine:
        model.unlink()
        kill(engine)
        await until(lambda: engine._keeper._num_deaths >= 2)
        with pytest.raises(EngineFailed, match="is away"):
            engine.tokenize("text")
        assert engine.count_prompt_tokens(Prompt((Message("user", "four words of text"),))) > 4
        asyncio.get_running_loop().call_later(0.1, engine.cancel, "one")
        async with asyncio.timeout(3):
            cancelled = [event async for event in engine.generate(asking("one", 5, 5))]
            late = [event async for event in engine.generate(asking("two", 5, deadline_s=0.1))]
        assert cancelled == [Prefilled(0), *(Finished(k, FinishReason.CANCELLED, 0) for k in range(2))]
        assert late == [Prefilled(0), Finished(0, FinishReason.CANCELLED, 0, "deadline")]
        await engine.release("tree")


async def test_cancelling_reaches_the_engine_within_a_step_and_counts_are_exact() -> None:
    async with hosting("slow_babbler") as engine:
        transcript = Transcript(engine, asking("gone", 3000))
        async for event in transcript.events():
            if isinstance(event, Delta) and transcript.num_tokens < 60:
                continue
            engine.cancel("gone")
        assert transcript.only.reason is FinishReason.CANCELLED
        assert transcript.num_tokens < 60 + MAX_UNREAD_TOKENS
        assert (await engine.health()).output_tokens == transcript.num_tokens


async def test_a_reader_that_leaves_stops_the_work() -> None:
    async with hosting("slow_babbler") as engine:
        async with aclosing(engine.generate(asking("left", 3000, 3000))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        async with asyncio.timeout(5):
            while (await engine.health()).live_sequences:  # noqa: ASYNC110  # engines have no event for it
                await asyncio.sleep(0.01)
        assert (await engine.health()).output_tokens < 100
        assert (await Transcript.of(engine, asking("left", 5))).num_tokens == 5, "the id may be used again"


async def test_a_live_request_id_cannot_be_used_twice() -> None:
    async with hosting("slow_babbler") as engine, aclosing(engine.generate(asking("same", 3000))) as events:
        await anext(events)
        with pytest.raises(InvalidRequest, match="in use"):
            await Transcript.of(engine, asking("same", 5))


async def test_monitors_that_cannot_travel_are_refused_and_say_why() -> None:
    class Local:
        name = "local"
        num_logprobs = 0

        def watch(self) -> Any:
            raise AssertionError

    async with hosting("slow_babbler") as engine:
        with pytest.raises(InvalidRequest, match="top of a module"):
            await Transcript.of(engine, asking("monitored", 5, monitors=(Local(),)))


async def test_a_host_ignores_the_signals_that_ask_its_parent_to_end() -> None:
    async with hosting("slow_babbler") as engine:
        pid = engine.host_pid
        kill(engine, signal.SIGTERM)
        kill(engine, signal.SIGINT)
        assert (await Transcript.of(engine, asking("next", 10))).num_tokens == 10
        assert engine.host_pid == pid


async def test_a_host_inherits_no_secrets_and_a_closed_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TTC_OPENAI__API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "TTC_STORE", "CUDA_SECRET_TOKEN"):
        monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    settings = Settings(store="redis://:sesame@host", openai=OpenAISettings(api_key="sesame", base_url="http://x"))
    async with hosting("confessing", settings=settings) as engine:
        pid = engine.host_pid
        text = (await Transcript.of(engine, asking("what", 20_000))).only.text
        assert "CUDA_VISIBLE_DEVICES=0" in text
        assert "sesame" not in text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_key_reaches_the_host_of_the_engine_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.workers.hosted.process import host_settings

    settings = Settings(openai=OpenAISettings(api_key="sesame", base_url="http://x"))
    assert host_settings(settings, "openai")["openai"]["api_key"] == "sesame"
    assert "openai" not in host_settings(settings, "llama_cpp")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("absent", ModelUnavailable, "no model file"),
        ("aborting", EngineFailed, "died while it started"),
        ("no_engine", InvalidRequest, "no engine"),
        ("not_there", EngineFailed, "not_there"),
    ],
)
async def test_an_engine_that_cannot_be_opened_says_why(name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        async with hosting(name, "nowhere"):
            pass


async def test_a_host_that_takes_too_long_to_start_is_given_up() -> None:
    with pytest.raises(EngineFailed, match=r"within 1.5 s"):
        async with hosting("sleeping", pacing=Pacing(start_s=1.5)):
            pass


async def test_models_are_hosted_by_name() -> None:
    settings = Settings()
    engine = await open_model("hosted:scripted:say=hello", settings=settings)
    try:
        assert engine.describe().name == "say"
        assert (await Transcript.of(engine, asking("hi", 5))).only.text == "hello"
    finally:
        await engine.aclose()
    with pytest.raises(UnknownName, match="model of the lab"):
        await open_model("hosted:lab:nothing", settings=settings)
    with pytest.raises(InvalidRequest, match="hosted twice"):
        await open_model("hosted:hosted:lab:small", settings=settings)


async def test_engines_that_open_asynchronously_are_hosted() -> None:
    async with hosting("later", "Ada") as engine:
        assert (await Transcript.of(engine, asking("who", 9))).only.text == "I am Ada."


PARENT = """
import asyncio, sys
from orchestrator.workers.hosted import open_engine

async def main():
    engine = await open_engine("x", opener="engines_to_host:slow_babbler")
    print(engine.host_pid, flush=True)
    await asyncio.sleep(60)

sys.path.insert(0, sys.argv[1])
asyncio.run(main())
"""


@pytest.mark.crash
def test_a_host_dies_with_its_parent() -> None:
    command = [sys.executable, "-P", "-c", PARENT, str(ENGINES_TO_HOST)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # even one that cannot notice
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _is_running(pid):
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.model
async def test_a_hosted_model_of_the_lab_is_started_again_in_the_middle_of_streams() -> None:
    pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")
    engine = await open_engine("lab:small", pacing=QUICK)
    try:
        begun = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(failure_of(engine, asking(f"r{k}", 4000), begun)) for k in range(8)]
            await begun.acquire()
            kill(engine)
        assert all(task.result().is_retryable for task in tasks)
        assert (await Transcript.of(engine, asking("next", 5))).num_tokens >= 1
    finally:
        await engine.aclose()
