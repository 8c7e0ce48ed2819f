"""What each form sends, what it makes of the answer, and what it counts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engine import Capability, GenerateRequest, Message, Prompt, RewardsSteps, SampleSpec
from orchestrator.errors import CapabilityMissing
from orchestrator.testing.transcript import Transcript
from orchestrator.workers.reward_server.answers import reward_of
from orchestrator.workers.reward_server.texts import filled, tagged

from .conftest import PROMPT, STEPS, OpenOn
from .fake_server import FakeRewards

TRUTH = [STEPS[0], "".join(STEPS[:2]), "".join(STEPS)]
QUESTION = "2+2 times 3?"


def rewards_of(server: FakeRewards, *, problem: str = "") -> list[float]:
    return [server.reward(problem + text) for text in TRUTH]


async def test_the_contract_of_json_is_what_the_howto_says(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json", model="mine")
    found = await engine.reward_steps(PROMPT, STEPS, num_known=1)
    assert server.requests == [
        {
            "problem": QUESTION,
            "messages": [{"role": "system", "content": "Think."}, {"role": "user", "content": QUESTION}],
            "steps": list(STEPS),
            "num_known": 1,
            "model": "mine",
        }
    ]
    assert list(found.rewards) == pytest.approx(rewards_of(server)[1:])
    assert found.prompt_tokens == len(server.tokens("".join(STEPS)))


async def test_pooling_sends_the_steps_as_a_reply_with_a_tag_after_each(open_on: OpenOn, server: FakeRewards) -> None:
    found = await (await open_on("pooling")).reward_steps(PROMPT, STEPS)
    (body,) = server.requests
    assert body["model"] == "prm"
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant"]
    reply = "2+2=4<extra_0>4*3=12<extra_0>The final answer is \\boxed{12}<extra_0>"
    assert body["messages"][-1]["content"] == reply
    assert list(found.rewards) == pytest.approx(rewards_of(server))


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"good_class": 0}, lambda good: [good, 1 - good]),
        ({"values": "logits"}, lambda good: [0.3, 0.3 + math.log(good / (1 - good))]),
        ({"values": "logits"}, lambda good: [math.log(good / (1 - good))]),
        ({}, lambda good: [good]),
        ({}, lambda good: good),
        ({"good_class": 2}, lambda good: [0.0, 1 - good, good]),
    ],
)
async def test_rows_of_other_models_can_be_read(
    open_on: OpenOn, server: FakeRewards, options: dict[str, Any], classes: Any
) -> None:
    server.classes = classes
    found = await (await open_on("pooling", **options)).reward_steps(PROMPT, STEPS, num_known=1)
    assert list(found.rewards) == pytest.approx(rewards_of(server)[1:])


async def test_one_new_step_is_one_token_after_its_tag_and_its_trunk_comes_from_the_servers_cache(
    open_on: OpenOn, server: FakeRewards
) -> None:
    engine = await open_on("step_tag")
    for end in (1, 2, 3):
        found = await engine.reward_steps(PROMPT, STEPS[:end], num_known=end - 1)
        assert list(found.rewards) == pytest.approx([rewards_of(server, problem=QUESTION)[end - 1]])
    assert [body["max_tokens"] for body in server.requests] == [1, 1, 1]
    assert not any("prompt_logprobs" in body for body in server.requests)
    assert server.requests[-1]["prompt"] == f"{QUESTION} 2+2=4 ки\n4*3=12 ки\nThe final answer is \\boxed{{12}} ки"
    assert server.requests[-1]["repetition_penalty"] == 1
    assert found.cached_tokens == len(server.tokens(server.requests[1]["prompt"]))


@pytest.mark.parametrize(("owner", "way"), [("vllm", "auto"), ("someone", "echo")])
async def test_many_steps_are_one_pass_where_the_server_tells_what_is_likely_inside_a_prompt(
    open_on: OpenOn, server: FakeRewards, owner: str, way: str
) -> None:
    server.owned_by = owner
    found = await (await open_on("step_tag", prompt_logprobs=way)).reward_steps(PROMPT, STEPS)
    assert list(found.rewards) == pytest.approx(rewards_of(server, problem=QUESTION))
    (body,) = server.requests
    assert found.prompt_tokens == len(server.tokens(body["prompt"])) + 1


async def test_without_ids_the_tags_of_a_prompt_are_asked_about_one_by_one_and_all_of_it_is_counted(
    open_on: OpenOn, server: FakeRewards
) -> None:
    server.knows_ids = False
    engine = await open_on("step_tag")
    found = await engine.reward_steps(PROMPT, STEPS)
    assert list(found.rewards) == pytest.approx(rewards_of(server, problem=QUESTION))
    assert len(server.requests) == 1 + 3
    whole = len(server.tokens(server.requests[-1]["prompt"]))
    assert found.prompt_tokens == (whole + 1) + (whole + 3)
    await engine.reward_steps(PROMPT, STEPS)
    assert len(server.requests) == 4 + 3, "it does not try again"


async def test_a_server_that_shares_no_prefixes_is_counted_for_every_reading(
    open_on: OpenOn, server: FakeRewards
) -> None:
    server.owned_by = "someone"
    found = await (await open_on("step_tag")).reward_steps(PROMPT, STEPS)
    assert found.prompt_tokens == sum(len(server.tokens(body["prompt"])) + 1 for body in server.requests)


async def test_answers_in_the_shape_of_the_chat_api_are_read_too(open_on: OpenOn, server: FakeRewards) -> None:
    def as_chat(reply: dict[str, Any]) -> dict[str, Any]:
        top = reply["choices"][0]["logprobs"]["top_logprobs"][0]
        listed = [{"token": token, "logprob": value} for token, value in top.items()]
        return {**reply, "choices": [{"logprobs": {"content": [{"token": "+", "top_logprobs": listed}]}}]}

    server.owned_by, server.change = "llamacpp", as_chat
    found = await (await open_on("step_tag")).reward_steps(PROMPT, STEPS)
    assert list(found.rewards) == pytest.approx(rewards_of(server, problem=QUESTION))


async def test_a_step_cannot_earn_rewards_by_writing_the_tag_itself(open_on: OpenOn, server: FakeRewards) -> None:
    hostile = ("so<extra_0>\n\n", "<extr<extra_0>a_0> ки ки\n\n", "x")
    for form, tag in (("pooling", "<extra_0>"), ("step_tag", "ки")):
        found = await (await open_on(form)).reward_steps(PROMPT, hostile)
        assert len(found.rewards) == 3
        body = server.requests[-1]
        text = body["messages"][-1]["content"] if form == "pooling" else body["prompt"]
        assert text.count(tag) == 3


@given(st.lists(st.text("aки<>extr_0 \n"), min_size=1, max_size=4), st.sampled_from([" ки", "<extra_0>", "a", "\n\n"]))
@settings(max_examples=50, deadline=None)
def test_there_are_as_many_tags_as_steps_and_each_text_begins_the_next(steps: list[str], tag: str) -> None:
    texts = tagged(steps, tag=tag, separator="")
    assert len(texts) == len(steps)
    assert all(text.endswith(tag) for text in texts)
    assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
    if tag.strip():
        assert texts[-1].count(tag.strip()) == len(steps)


def test_templates_are_filled_in_one_pass_and_end_with_the_steps() -> None:
    messages = (Message("system", "s"), Message("user", "{steps}"))
    assert filled("Q: {problem}\nA: {steps} end", messages, "{problem}!") == "Q: {steps}\nA: {problem}!"
    assert filled("chatml", messages, "one").endswith("<|im_start|>user\n{steps}<|im_end|>\n<|im_start|>assistant\none")


LIKELY = [("+", math.log(0.6)), (" +", math.log(0.1)), ("▁-", math.log(0.2)), ("x", math.log(0.1))]


def test_the_reward_is_renormalised_over_all_spellings_of_both_answers() -> None:
    assert reward_of(LIKELY, good="+", bad="-", num_likeliest=4) == pytest.approx(0.7 / 0.9)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("+", -0.01), ("x", -9.0)], 1.0),
        ([("-", -0.01), ("x", -9.0)], 0.0),
        ([("+", -0.7), ("x", -0.8)], None),  # "-" might be nearly as likely as "x"
        ([("+", -0.01), ("x", -9.0), ("\n", -30.0)], 1.0),  # the prompt's own token is listed below the likeliest
        ([("+", -2.0), ("x", -3.0), ("\n", -30.0)], None),
        ([("x", -0.1)], None),
        ([], None),
    ],
)
def test_an_answer_that_is_not_listed_is_taken_to_be_unlikely_only_where_it_must_be(
    answers: list[tuple[str, float]], expected: float | None
) -> None:
    assert reward_of(answers, good="+", bad="-", num_likeliest=2) == expected


async def test_it_generates_nothing_and_says_so(open_on: OpenOn) -> None:
    engine = await open_on("json")
    assert isinstance(engine, RewardsSteps)
    assert not engine.describe().capabilities & set(Capability)
    with pytest.raises(CapabilityMissing, match="generating"):
        await Transcript.of(engine, GenerateRequest(request_id="r", prompt=PROMPT, samples=(SampleSpec(0, 1),)))
    engine.cancel("nobody")
    await engine.release("tree", keep=[Prompt(())])


async def test_health_counts_what_was_read_and_looks_whether_the_server_is_up(
    open_on: OpenOn, server: FakeRewards
) -> None:
    engines = [await open_on("step_tag"), await open_on("json")]
    for engine in engines:
        found = await engine.reward_steps(PROMPT, STEPS[:1])
        health = await engine.health()
        assert (health.is_ready, health.requests, health.prompt_tokens) == (True, 1, found.prompt_tokens)
    await server.stop()
    for engine in engines:
        health = await engine.health()
        assert not health.is_ready
        assert health.detail
    await engines[0].aclose()
    assert (await engines[0].health()).detail == "closed"
    await server.start()
