"""Settings as vLLM's engine arguments."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config import SpeculationSettings, VllmSettings, read_settings
from orchestrator.errors import InvalidRequest
from orchestrator.workers.vllm.arguments import engine_arguments, speculative_config


def test_without_settings_vllm_keeps_its_own_but_serves_by_priority():
    given = engine_arguments("folder", VllmSettings())
    assert given["model"] == "folder"
    assert given["scheduling_policy"] == "priority"
    assert "max_model_len" not in given
    assert "speculative_config" not in given


def test_settings_are_passed_on_and_engine_arguments_win():
    settings = VllmSettings(max_model_len=4096, kv_cache_gib=0.5, engine_args={"max_model_len": 2048, "seed": 3})
    given = engine_arguments("folder", settings)
    assert (given["max_model_len"], given["seed"]) == (2048, 3)
    assert given["kv_cache_memory_bytes"] == 1 << 29
    assert not any(name in given for name in ("step_tag", "prompt_usd", "log", "cpu_cores"))


def test_a_table_of_draft_lengths_becomes_vllms_and_its_longest_the_limit():
    speculation = SpeculationSettings(model="draft", num_tokens=2, by_batch=((1, 16, 3), (17, 64, 0)))
    assert speculative_config(speculation) == {
        "method": "draft_model",
        "model": "draft",
        "num_speculative_tokens": 3,
        "num_speculative_tokens_per_batch_size": [[1, 16, 3], [17, 64, 0]],
    }


def test_guesses_from_repeated_text_need_no_model_and_take_options():
    speculation = SpeculationSettings(method="ngram", options={"prompt_lookup_max": 4})
    assert speculative_config(speculation) == {
        "method": "ngram",
        "num_speculative_tokens": 4,
        "prompt_lookup_max": 4,
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"method": "draft_model"}, "needs a model"),
        ({"method": "ngram", "by_batch": ((2, 4, 1),)}, "begin at 1"),
        ({"method": "ngram", "by_batch": ((1, 4, 1), (6, 8, 1))}, "no gap"),
        ({"method": "ngram", "num_tokens": 0}, "greater than or equal to 1"),
        ({"method": "telepathy"}, "draft_model"),
    ],
)
def test_speculation_that_makes_no_sense_is_refused(fields: dict[str, Any], reason: str):
    with pytest.raises(ValidationError, match=reason):
        SpeculationSettings(**fields)


@pytest.mark.parametrize("fields", [{"step_good": "+"}, {"step_good": "+", "step_bad": "-"}])
def test_a_step_tag_and_its_answers_belong_together(fields: dict[str, Any]):
    with pytest.raises(ValidationError, match="belong together"):
        VllmSettings(**fields)


def test_a_setting_that_is_none_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTC_VLLM__GPU_MEMORY_UTILIZATION", "1.5")
    with pytest.raises(InvalidRequest, match="TTC_VLLM__GPU_MEMORY_UTILIZATION"):
        read_settings()
