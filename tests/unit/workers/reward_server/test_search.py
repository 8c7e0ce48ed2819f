"""A search whose steps a reward server judges: caps hold, the books agree with the engine's, the work is spread out."""

from __future__ import annotations

import pytest

from orchestrator import Budget, Orchestrator
from orchestrator.engine import Prompt
from orchestrator.testing import ScriptedEngine

from .conftest import OpenOn
from .fake_server import FakeRewards


def writes_step_by_step(prompt: Prompt, seed: int) -> str:
    depth = prompt.continuation_text.count("\n\n")
    return f"step {depth} in way {seed % 3}\n\n" if depth < 3 else f"The final answer is \\boxed{{{seed % 2}}}"


@pytest.mark.parametrize("form", ["json", "pooling", "step_tag"])
async def test_a_search_ends_within_its_caps_and_its_bill_is_what_the_engine_counted(
    open_on: OpenOn, server: FakeRewards, form: str
) -> None:
    judge = await open_on(form, name="judge", prompt_usd=1.0)
    budget = Budget(max_total_tokens=6000, max_usd=0.01)
    async with Orchestrator(ScriptedEngine(writes_step_by_step), roles={"verifier": judge}) as ttc:
        result = await ttc.solve("2+2 times 3?", policy="rebase", params={"width": 6}, budget=budget)
    health = await judge.health()
    assert result.text in {"0", "1"}
    assert result.usage.overrun_tokens == 0
    assert result.usage.total_tokens <= 6000
    assert result.usage.verifier_tokens == {"judge": health.prompt_tokens}
    assert result.usage.picodollars == 10**6 * health.prompt_tokens
    assert health.requests == len(server.requests)


async def test_a_server_that_goes_down_in_the_middle_leaves_scores_missing_and_the_job_with_an_answer(
    open_on: OpenOn, server: FakeRewards
) -> None:
    judge = await open_on("json", max_retries=0)
    answer = server.change

    def change(reply: object) -> object:
        if len(server.requests) > 4:
            server.statuses = [(500, {}, "down")] * 100
        return answer(reply)  # type: ignore[arg-type]

    server.change = change
    async with Orchestrator(ScriptedEngine(writes_step_by_step), roles={"verifier": judge}) as ttc:
        result = await ttc.solve("2+2 times 3?", policy="rebase", params={"width": 6})
    assert server.statuses
    assert result.text in {"0", "1"}
