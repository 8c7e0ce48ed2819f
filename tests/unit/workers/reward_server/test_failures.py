"""Servers that are down, slow, hostile or wrong: an error that says why, and never a reward that nobody gave."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import Budget, Orchestrator
from orchestrator.engine import StepRewards
from orchestrator.errors import ContextOverflow, EngineFailed
from orchestrator.testing import ScriptedEngine

from .conftest import PROMPT, STEPS, InstantClock, OpenOn
from .fake_server import FakeRewards, Json

FORMS = ["json", "pooling", "step_tag"]


def setting(*path: Any, to: Any) -> Callable[[Json], Any]:
    """Changes one place of an answer."""

    def change(reply: Json) -> Any:
        reply = copy.deepcopy(reply)
        inner: Any = reply
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        return reply

    return change


ROWS = ("data", 0, "data")
TOP = ("choices", 0, "logprobs", "top_logprobs", 0)
BROKEN = [
    ("json", setting("rewards", to=[0.5, 0.5]), "2 rewards"),
    ("json", setting("rewards", to=[0.5, 0.5, 0.5, 0.5]), "asked for those of steps\\[0:\\], 3 of 3"),
    ("json", setting("rewards", to=None), "no list of rewards"),
    ("json", setting("rewards", to={"0": 1}), "no list of rewards"),
    ("json", setting("rewards", 1, to=None), "not numbers from 0 to 1"),
    ("json", setting("rewards", 1, to=math.nan), "not numbers from 0 to 1"),
    ("json", setting("rewards", 1, to=1.5), "not numbers from 0 to 1"),
    ("json", setting("rewards", 1, to=-0.5), "not numbers from 0 to 1"),
    ("json", setting("rewards", 1, to=True), "not numbers from 0 to 1"),
    ("json", setting("rewards", 1, to="0.5"), "not numbers from 0 to 1"),
    ("json", setting("usage", to={"prompt_tokens": "many"}), "usage without counts"),
    ("json", setting("usage", to={"prompt_tokens": 1e300}), "usage that cannot be"),
    ("json", lambda reply: [reply], "no JSON object"),
    ("pooling", setting("data", to=[]), "no pooled data"),
    ("pooling", setting("data", 0, "data", to=None), "no pooled data"),
    ("pooling", setting("data", 0, "data", to="AAAA"), "no pooled data|not all numbers"),
    ("pooling", setting(*ROWS, 1, to=[0.5, None]), "not all numbers"),
    ("pooling", setting(*ROWS, 1, to=[0.5, math.nan]), "not all numbers"),
    ("pooling", setting(*ROWS, 1, to=[]), "not all numbers"),
    ("pooling", setting(*ROWS, to=[[0.5, 0.5]]), "1 rows for 3 steps"),
    ("pooling", setting(*ROWS, to=[[0.5, 0.5]] * 40), "40 rows for 3 steps.*step_tag_id"),
    ("pooling", setting(*ROWS, 1, to=[-2.5, 3.0]), "no probabilities.*values=logits"),
    ("pooling", setting(*ROWS, 1, to=[0.2, 0.2]), "no probabilities.*values=logits"),
    ("pooling", setting(*ROWS, 1, to=[-1.0, 1.0, 1.0]), "no probabilities"),
    ("step_tag", setting(*TOP, to={" the": -0.1, " a": -3.0}), "do not settle between good='\\+' and bad='-'"),
    ("step_tag", setting(*TOP, to={}), "no log probabilities"),
    ("step_tag", setting(*TOP, to={"+": None}), "no log probabilities"),
    ("step_tag", setting(*TOP, to={"+": math.nan, "-": -1.0}), "no log probabilities"),
    ("step_tag", setting("choices", 0, "logprobs", to=None), "no log probabilities"),
    ("step_tag", setting("choices", to=[]), "no log probabilities"),
]


@pytest.mark.parametrize(("form", "change", "said"), BROKEN)
async def test_an_answer_that_cannot_be_used_is_an_error_that_names_model_server_and_reason(
    open_on: OpenOn, server: FakeRewards, form: str, change: Callable[[Json], Any], said: str
) -> None:
    server.owned_by = "sglang"
    engine = await open_on(form, name="judge")
    server.change = change
    with pytest.raises(EngineFailed, match=said) as caught:
        await engine.reward_steps(PROMPT, STEPS)
    assert "'judge'" in str(caught.value)
    assert server.url.removeprefix("http://") in str(caught.value)
    assert not caught.value.is_retryable
    assert len(server.requests) == 1, "another attempt would bring the same"
    assert (await engine.health()).requests == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
PLACES = {
    "json": [("rewards",), ("rewards", 0), ("usage",), ("usage", "prompt_tokens")],
    "pooling": [("data",), ("data", 0), ROWS, (*ROWS, 0), (*ROWS, 0, 0), ("usage",)],
    "step_tag": [
        ("choices",),
        ("choices", 0),
        ("choices", 0, "logprobs"),
        ("choices", 0, "logprobs", "top_logprobs"),
        TOP,
        ("choices", 0, "prompt_logprobs"),
        ("choices", 0, "prompt_logprobs", 9),
        ("choices", 0, "prompt_token_ids"),
    ],
}


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_stands_in_an_answer_there_are_rewards_or_an_error_of_ours(
    open_on: OpenOn, server: FakeRewards, form: str, data: Any
) -> None:
    server.change = lambda reply: reply
    engine = await open_on(form, max_retries=0)
    server.change = setting(*data.draw(st.sampled_from(PLACES[form])), to=data.draw(JSON))
    try:
        found = await engine.reward_steps(PROMPT, STEPS)
    except EngineFailed:
        return
    assert len(found.rewards) == 3
    assert all(0 <= reward <= 1 for reward in found.rewards)
    assert 0 <= found.cached_tokens <= found.prompt_tokens


@pytest.mark.parametrize("form", FORMS)
async def test_a_momentary_failure_is_tried_again_as_long_as_the_server_asks(
    open_on: OpenOn, server: FakeRewards, clock: InstantClock, form: str
) -> None:
    engine = await open_on(form)
    server.statuses = [(503, {}, "busy"), (429, {"Retry-After": "7"}, {"error": {"message": "slow down"}})]
    assert len((await engine.reward_steps(PROMPT, STEPS)).rewards) == 3
    assert len(clock.slept) == 2
    assert clock.slept[1] == 7


@pytest.mark.parametrize("form", FORMS)
async def test_a_refusal_is_final_and_a_server_that_stays_down_is_given_up(
    open_on: OpenOn, server: FakeRewards, clock: InstantClock, form: str
) -> None:
    engine = await open_on(form)
    server.statuses = [(401, {}, {"error": {"message": "no such key"}})]
    with pytest.raises(EngineFailed, match=r"HTTP 401: no such key; check api_key") as caught:
        await engine.reward_steps(PROMPT, STEPS)
    assert not caught.value.is_retryable
    assert clock.slept == []
    server.statuses = [(500, {}, "oh")] * 9
    with pytest.raises(EngineFailed, match="HTTP 500"):
        await engine.reward_steps(PROMPT, STEPS)
    assert len(clock.slept) == 4


async def test_redirects_are_not_followed(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json", api_key="k")
    server.statuses = [(307, {"Location": "http://elsewhere.invalid/"}, "")]
    with pytest.raises(EngineFailed, match="redirect, which is not followed"):
        await engine.reward_steps(PROMPT, STEPS)


@pytest.mark.parametrize("form", FORMS)
async def test_a_text_that_does_not_fit_is_a_context_overflow(open_on: OpenOn, server: FakeRewards, form: str) -> None:
    engine = await open_on(form)
    said = "This model's maximum context length is 4096 tokens. However, your input has {} tokens."
    for body, length in [
        ({"error": {"message": said.format(5000), "code": 400}}, 5000),
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, None),
    ]:
        server.statuses = [(400, {}, body)]
        with pytest.raises(ContextOverflow) as caught:
            await engine.reward_steps(PROMPT, STEPS)
        assert length is None or caught.value.fields()["prompt_tokens"] == length


async def test_a_server_that_falls_silent_is_given_up_in_time(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json", idle_timeout_s=0.05, max_retries=1)
    server.hangs = True
    with pytest.raises(EngineFailed, match="no answer in time"):
        await engine.reward_steps(PROMPT, STEPS)
    assert len(server.requests) == 2


async def test_a_jobs_deadline_ends_the_wait_and_the_score_is_missing(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json")
    server.hangs = True
    began = time.monotonic()
    async with Orchestrator(ScriptedEngine(["The answer is 12."]), roles={"verifier": engine}) as ttc:
        result = await ttc.solve(
            "2+2 times 3?",
            policy="best_of_n",
            params={"n": 2},
            verifier="process_reward",
            budget=Budget(max_seconds=0.6),
        )
    assert result.text == "12"
    assert time.monotonic() - began < 5


async def test_closing_fails_what_is_under_way_and_what_comes_after(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json")
    server.hangs = True
    waiting = asyncio.create_task(engine.reward_steps(PROMPT, STEPS))
    while not server.requests:  # noqa: ASYNC110  # what is waited for happens in other code
        await asyncio.sleep(0.01)
    assert (await engine.health()).live_sequences == 1
    await engine.aclose()
    await engine.aclose()
    for work in (waiting, engine.reward_steps(PROMPT, STEPS)):
        with pytest.raises(EngineFailed, match="closed"):
            await work
    assert await engine.health()


async def test_no_steps_ask_nothing(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json")
    assert await engine.reward_steps(PROMPT, ()) == StepRewards((), 0)
    assert await engine.reward_steps(PROMPT, STEPS, num_known=3) == StepRewards((), 0)
    assert server.requests == []
