"""Backoff, what is remembered of the vocabulary, what is hosted by default, which class has which protocols."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.config import Settings
from orchestrator.engine import (
    Embeds,
    Engine,
    GivesLogits,
    Message,
    Prompt,
    RewardsSteps,
    ScoresTokens,
    Span,
    Tokenizes,
)
from orchestrator.workers.hosted import Pacing, hosted_by_default
from orchestrator.workers.hosted.engine import hosted_class
from orchestrator.workers.hosted.process import host_environment, host_settings
from orchestrator.workers.hosted.vocabulary import Remembered, split_prompt, upper_bound


def test_the_first_start_after_a_death_comes_at_once_and_delays_are_bounded() -> None:
    pacing = Pacing(first_delay_s=0.5, longest_delay_s=3)
    assert [pacing.delay_s(deaths) for deaths in range(7)] == [0, 0, 0.5, 1, 2, 3, 3]
    assert pacing.delay_s(10**6) == 3


@pytest.mark.parametrize(
    ("model", "hosted"),
    [
        ("qwen2.5-coder-0.5b", "hosted:qwen2.5-coder-0.5b"),
        ("/models/x.gguf", "hosted:/models/x.gguf"),
        ("llama_cpp:x.gguf", "hosted:llama_cpp:x.gguf"),
        ("lab:small", "hosted:lab:small"),
        ("hosted:lab:small", "hosted:lab:small"),
        ("openai:gpt@http://host/v1", "openai:gpt@http://host/v1"),
        ("scripted:", "scripted:"),
    ],
)
def test_embedded_engines_are_hosted_by_default(model: str, hosted: str) -> None:
    assert hosted_by_default(model) == hosted


ABILITIES = {kind.__name__: kind for kind in (Tokenizes, ScoresTokens, Embeds, GivesLogits, RewardsSteps)}


@pytest.mark.parametrize(
    "wanted", [set(names) for size in range(6) for names in itertools.combinations(ABILITIES, size)]
)
def test_a_class_has_the_wanted_protocols_and_no_others(wanted: set[str]) -> None:
    kind = hosted_class(frozenset(wanted))
    engine = kind.__new__(kind)
    assert isinstance(engine, Engine)
    assert {name for name, protocol in ABILITIES.items() if isinstance(engine, protocol)} == wanted
    assert hosted_class(frozenset(wanted)) is kind


def test_spans_at_the_end_whose_ids_are_known_need_not_be_counted() -> None:
    messages = (Message("user", "x"),)
    known, foreign, text = Span("a", (1, 2), "words"), Span("b", (3,), "others"), Span("c")
    assert split_prompt(Prompt(messages, (known, known)), "words") == (Prompt(messages), 4)
    assert split_prompt(Prompt(messages, (text, known)), "words") == (Prompt(messages, (text,)), 2)
    assert split_prompt(Prompt(messages, (known, foreign)), "words") == (Prompt(messages, (known, foreign)), 0)
    assert split_prompt(Prompt(messages, (known,)), None) == (Prompt(messages, (known,)), 0)


def test_the_bound_counts_bytes() -> None:
    prompt = Prompt((Message("user", "日本"),), (Span("ab"),))
    assert upper_bound(prompt, empty_prompt_tokens=30) == 30 + 6 + 2 + 16


def test_what_is_remembered_is_bounded() -> None:
    remembered = Remembered()
    for number in range(10_000):
        remembered.keep(number, number, 10)
    assert remembered.get(0) is None
    assert remembered.get(9_999) == 9_999
    remembered.keep("long", 1, 1 << 21)
    assert remembered.get("long") is None, "one answer does not push out all others"
    for number in range(20):
        remembered.keep(("big", number), number, 1 << 20)
    assert sum(remembered.get(("big", number)) is not None for number in range(20)) <= 8


def test_a_host_gets_the_settings_of_its_engine_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTC_LLAMA_CPP__NUM_THREADS", "3")
    monkeypatch.setenv("TTC_STORE", "redis://:sesame@host")
    monkeypatch.setenv("TTC_OPENAI__API_KEY", "sesame")
    settings = Settings()
    given = host_settings(settings, "llama_cpp")
    assert given["llama_cpp"] == {"num_threads": 3}
    assert "sesame" not in repr(given)
    assert host_settings(settings, "openai")["openai"] == {"api_key": "sesame"}
    assert "sesame" not in repr(host_environment(settings))
