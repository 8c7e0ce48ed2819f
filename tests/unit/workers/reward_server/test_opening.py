"""Opening: what is asked first, what a name may set, and where keys go."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import OpenAISettings, Settings
from orchestrator.errors import EngineFailed, InvalidRequest
from orchestrator.models import open_model
from orchestrator.workers.reward_server import RewardServerEngine, open_engine
from orchestrator.workers.reward_server.opening import open_reward
from orchestrator.workers.reward_server.options import read_target

from .conftest import PROMPT, STEPS, OpenOn
from .fake_server import FakeRewards


@pytest.fixture(autouse=True)
def no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "TTC_OPENAI__API_KEY", "TTC_OPENAI__BASE_URL", "TTC_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_server_is_asked_what_it_serves_and_for_the_rewards_of_a_small_solution(
    server: FakeRewards, suffix: str
) -> None:
    engine = await open_engine(server.url + suffix, form="pooling")
    description = engine.describe()
    assert (description.name, description.engine, description.context_length) == ("prm", "reward", 4096)
    assert len(server.requests) == 1
    assert (await engine.health()).requests == 0, "the probe is no work of a job"
    await engine.aclose()


async def test_a_server_that_gives_no_rewards_is_found_out_when_it_is_opened(server: FakeRewards) -> None:
    server.change = lambda reply: {**reply, "data": [{"data": [[0.1, 0.2, 0.7]] * 50}]}
    with pytest.raises(EngineFailed, match=r"50 rows for 2 steps.*pooler-config"):
        await open_engine(server.url, form="pooling")
    with pytest.raises(EngineFailed, match="HTTP 404"):
        await open_engine(server.url + "/nowhere", form="json")


async def test_a_server_that_is_not_there_is_named(server: FakeRewards) -> None:
    await server.stop()
    for form in ("json", "pooling", "step_tag"):
        with pytest.raises(EngineFailed, match=r"127\.0\.0\.1.*connection failed"):
            await open_engine(server.url, form=form, max_retries=0)
    await server.start()


async def test_of_several_models_one_must_be_named(server: FakeRewards) -> None:
    server.models = ["a", "b"]
    with pytest.raises(InvalidRequest, match="has: a, b"):
        await open_engine(server.url, form="pooling")
    engine = await open_engine(server.url, form="pooling", model="b", name="judge")
    assert engine.describe().name == "judge"
    assert server.requests[-1]["model"] == "b"
    await engine.aclose()


async def test_prices_and_further_fields_are_taken_as_they_are(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("pooling", prompt_usd=2.0, extra_body={"priority": 3, "model": None}, context_length=99)
    assert engine.describe().cost.prices.prompt_usd == 2.0
    assert engine.describe().context_length == 99
    await engine.reward_steps(PROMPT, STEPS)
    assert server.requests[-1]["priority"] == 3
    assert "model" not in server.requests[-1]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://["}, "url"),
        ({"url": "http://user:pw@x"}, "url"),
        ({"url": "http://x/score?token=pw"}, "url"),
        ({"url": ""}, "url"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"form": "magic"}, "form"),
        ({"good_class": -1}, "good_class"),
        ({"tags": "x"}, "tags"),
        ({"template": "no fields"}, "template"),
        ({"form": "step_tag", "template": ""}, "template"),
        ({"good": "+", "bad": "+"}, "good"),
        ({"num_logprobs": 1}, "num_logprobs"),
    ],
)
async def test_a_wrong_option_is_named_and_secrets_are_not_shown(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await open_engine(**{"url": "http://127.0.0.1:9", **options})
    assert field in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "a\nb" not in repr(caught.value.fields())


@pytest.mark.parametrize(
    ("target", "url", "options"),
    [
        ("http://h:1/score", "http://h:1/score", {"form": "json"}),
        ("pooling@http://h:1", "http://h:1", {"form": "pooling"}),
        (
            "step_tag@https://h/v1#tag=%20%2B%26&good=%2B",
            "https://h/v1",
            {"form": "step_tag", "tag": " +&", "good": "+"},
        ),
        ("http://h/a@b#model=org/prm", "http://h/a@b", {"form": "json", "model": "org/prm"}),
    ],
)
def test_a_name_says_form_address_and_options(target: str, url: str, options: dict[str, str]) -> None:
    assert read_target(target) == (url, options)


@pytest.mark.parametrize("target", ["", "pooling", "pooling@host:1", "#x", "http:/h"])
def test_a_name_that_is_none_is_answered_with_how_to_write_one(target: str) -> None:
    with pytest.raises(InvalidRequest, match="write reward:pooling@http://HOST:PORT"):
        read_target(target)


@pytest.mark.parametrize("name", ["api_key", "api_key_env", "headers", "extra_body", "max_retries", "url", "form", "x"])
def test_a_name_cannot_reach_for_keys_headers_or_limits(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"cannot set '{name}'"):
        read_target(f"pooling@http://h#{name}=OPENAI_API_KEY")


async def test_a_stored_key_goes_only_to_the_address_that_it_was_stored_for(server: FakeRewards) -> None:
    own = Settings(openai=OpenAISettings(base_url=f"{server.url}/v1", api_key="stored"))  # type: ignore[arg-type]
    other = Settings(openai=OpenAISettings(base_url="http://elsewhere/v1", api_key="stored"))  # type: ignore[arg-type]
    sent = []
    for settings, target in [
        (own, f"pooling@{server.url}"),
        (other, f"pooling@{server.url}"),
        (own, f"{server.url}/score/steps"),
        (Settings(), f"pooling@{server.url}"),
    ]:
        engine = await open_reward(target, settings)
        sent.append(server.headers[-1].get("Authorization"))
        await engine.aclose()
    assert sent == ["Bearer stored", None, None, None]


async def test_a_given_key_is_sent_and_never_shown(open_on: OpenOn, server: FakeRewards) -> None:
    engine = await open_on("json", api_key="hush-hush")
    await engine.reward_steps(PROMPT, STEPS)
    assert server.headers[-1]["Authorization"] == "Bearer hush-hush"
    server.change = lambda reply: {"rewards": "hush-hush"}
    with pytest.raises(EngineFailed) as caught:
        await engine.reward_steps(PROMPT, STEPS)
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(engine)


async def test_it_is_found_by_the_name_reward(server: FakeRewards) -> None:
    engine = await open_model(f"reward:step_tag@{server.url}#name=judge", settings=Settings())
    assert isinstance(engine, RewardServerEngine)
    assert engine.describe().name == "judge"
    await engine.aclose()
