"""The lab's reward model behind a real completions server gives the rewards that it gives in the embedded engine."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.engine import Message, Prompt
from orchestrator.step_scores import STEP_DELIMITER
from orchestrator.workers.reward_server import open_engine

from .conftest import _wait_for

pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")

from orchestrator.bench.lab.model_names import REWARD_MODEL, weights_path
from orchestrator.workers import llama_cpp

pytestmark = [pytest.mark.server, pytest.mark.model]

PROMPT = Prompt((Message("user", "Compute: 3*(4+17)-5 mod 61"),))
STEPS = ("4+17=21\n\n", "3*21=2\n\n", "2-5=58\n\n", "The final answer is \\boxed{58}\n\n")


@pytest.fixture(scope="module")
def served_judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`llama_cpp.server` with the lab's reward model; it gives log probabilities."""
    pytest.importorskip("starlette_context", reason="llama_cpp.server needs its extra: llama-cpp-python[server]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(weights_path(REWARD_MODEL))]
    command += [
        "--n_ctx",
        "512",
        "--n_threads",
        "1",
        "--logits_all",
        "true",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log: Path = tmp_path_factory.mktemp("reward_server") / "log.txt"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.mark.parametrize("way", ["off", "echo"])
async def test_rewards_by_log_probabilities_are_those_of_the_embedded_engine(served_judge: str, way: str) -> None:
    embedded = await llama_cpp.open_engine(weights_path(REWARD_MODEL), name="judge", context_cells=1024)
    header = embedded._model.step_tag()
    assert header is not None
    own = embedded.detokenize(header.tag)
    tag = STEP_DELIMITER if own == STEP_DELIMITER else STEP_DELIMITER + own
    remote = await open_engine(
        served_judge,
        form="step_tag",
        tag=tag,
        after_tag="",
        template="{problem}\n{steps}",
        prompt_logprobs=way,
        context_length=512,
    )
    expected = (await embedded.reward_steps(PROMPT, STEPS)).rewards
    assert (await remote.reward_steps(PROMPT, STEPS)).rewards == pytest.approx(expected, abs=1e-4)
    last = await remote.reward_steps(PROMPT, STEPS, num_known=3)
    assert last.rewards == pytest.approx(expected[3:], abs=1e-4)
    await remote.aclose()
    await embedded.aclose()
