"""``vllm serve`` as others run it: our reward server engine and our openai engine against the real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import Orchestrator
from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.bench.sets import open_set
from orchestrator.engine import Engine, Message, Prompt
from orchestrator.job import JobState
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers import openai, reward_server

pytest.importorskip("vllm", reason="vLLM is not installed")

from .checkpoints import STEP_TAG, random_llama, random_reward_model
from .test_pooling import PROBLEM, STEPS, plain_rewards

pytestmark = [pytest.mark.vllm, pytest.mark.server, pytest.mark.timeout(900)]

_START_S = 600


@contextmanager
def serving(model: Path, log: Path, *options: str) -> Iterator[str]:
    """The address of a server of vLLM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # As `vllm serve`, whose command asks for a package that the CPU build's is not called.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", "100000000", *options]
    own = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | own)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def pooling_server(models: Path) -> Iterator[str]:
    folder = random_reward_model(models / "served_classifier")
    tag = _tag_id(folder)
    pooler = f'{{"tok_pooling_type": "STEP", "step_tag_id": {tag}}}'
    with serving(folder, models / "pooling.log", "--runner", "pooling", "--pooler-config", pooler) as address:
        yield address


@pytest.fixture(scope="module")
def completion_server(models: Path) -> Iterator[str]:
    folder = random_llama(models / "served_babbler")
    with serving(
        folder, models / "completions.log", "--enable-prompt-tokens-details", "--max-num-seqs", "16"
    ) as address:
        yield address


def _tag_id(folder: Path) -> int:
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(STEP_TAG)
    assert isinstance(token, int)
    return token


async def test_rewards_over_http_are_those_of_a_plain_forward_pass(pooling_server: str, models: Path) -> None:
    from transformers import AutoTokenizer

    engine = await reward_server.open_engine(pooling_server, form="pooling")
    try:
        judged = await engine.reward_steps(PROBLEM, STEPS)
        known = await engine.reward_steps(PROBLEM, STEPS, num_known=3)
    finally:
        await engine.aclose()
    folder = models / "served_classifier"
    tag, tokenizer = _tag_id(folder), AutoTokenizer.from_pretrained(folder)
    text = STEP_TAG.join(step.strip() for step in STEPS) + STEP_TAG
    ids = tokenizer.encode(f"<s>{PROBLEM.messages[0].content}\n{text}", add_special_tokens=False)
    assert list(judged.rewards) == pytest.approx(plain_rewards(folder, ids, tag), abs=1e-3)
    assert known.rewards == pytest.approx(judged.rewards[3:], abs=1e-4)
    assert len(ids) <= judged.prompt_tokens <= len(ids) + 2, "the template may end the turn after the last tag"


async def test_a_search_is_judged_by_the_server(pooling_server: str) -> None:
    pytest.importorskip("llama_cpp", reason="the generator is run by the embedded engine")
    from orchestrator.bench.lab.opening import open_lab
    from orchestrator.config import Settings

    problems = open_set("expression@4", count=1, seed=2)
    (problem,) = problems.problems
    judge, small = await reward_server.open_engine(pooling_server, form="pooling"), await open_lab("small", Settings())
    try:
        async with Orchestrator(small, roles={"verifier": judge}) as ttc:
            result = await ttc.solve(
                problem.text,
                messages=problem.messages,
                policy="rebase",
                params={"width": 4},
                answer=problems.answer_kind,
                seed=4,
            )
        counted = await judge.health()
    finally:
        await small.aclose()
        await judge.aclose()
    assert result.state is JobState.SUCCEEDED
    assert counted.requests > 1
    assert result.usage.verifier_calls >= counted.requests > 0


async def test_a_step_tag_model_is_judged_over_http_as_in_the_engine(models: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")
    from orchestrator.bench.lab.opening import open_lab
    from orchestrator.config import Settings

    embedded = await open_lab("prm", Settings())
    expected = await embedded.reward_steps(PROBLEM, STEPS)  # type: ignore[attr-defined]
    await embedded.aclose()
    with serving(WEIGHTS / "prm", models / "prm.log", "--enable-prompt-tokens-details") as address:
        engine = await reward_server.open_engine(
            address, form="step_tag", tag="\n\n", after_tag="", template="{problem}\n{steps}", good="+", bad="-"
        )
        try:
            at_once = await engine.reward_steps(PROBLEM, STEPS)
            one = await engine.reward_steps(PROBLEM, STEPS, num_known=3)
        finally:
            await engine.aclose()
    assert at_once.rewards == pytest.approx(expected.rewards, abs=0.02)
    assert one.rewards == pytest.approx(expected.rewards[3:], abs=0.02)


class TestChatCompletions(EngineContract):
    """The openai engine on a babbling model behind ``vllm serve``."""

    api = "chat"

    @pytest.fixture
    async def engine(self, completion_server: str) -> AsyncIterator[Engine]:
        engine = await openai.open_engine(base_url=f"{completion_server}/v1", api=self.api)
        yield engine
        await engine.aclose()

    @pytest.fixture
    def disposable_engine(self, engine: Engine) -> Engine:
        return engine


class TestCompletions(TestChatCompletions):
    api = "completions"


async def test_the_server_says_which_prompt_tokens_were_cached(completion_server: str) -> None:
    from orchestrator.testing.transcript import Transcript

    from .asked import asked

    engine = await openai.open_engine(base_url=f"{completion_server}/v1")
    prompt = Prompt((Message("user", "Count to a hundred, one number to a line. " * 8),))
    try:
        first = await Transcript.of(engine, asked(4, prompt=prompt))
        again = await Transcript.of(engine, asked(4, prompt=prompt))
    finally:
        await engine.aclose()
    assert first.prefilled is not None
    assert again.prefilled is not None
    assert (first.prefilled.cached_tokens, again.prefilled.cached_tokens > 0) == (0, True)
