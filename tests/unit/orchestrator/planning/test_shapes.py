"""Shapes: parameters counted from the widths are those that are published."""

import json
from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.planning.shapes import open_shape, presets

PUBLISHED = {  # from the model cards and safetensors indices of these models
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
}
CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "architectures": ["LlamaForCausalLM"],
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert open_shape(name).parameters == parameters


def test_every_preset_but_the_reward_model_is_held_against_its_publication() -> None:
    assert set(presets()) - set(PUBLISHED) == {"qwen2.5-math-prm-7b"}


def test_experts_are_stored_but_not_all_used() -> None:
    shape = open_shape("qwen3-30b-a3b")
    assert shape.active_parameters == pytest.approx(3.35e9, rel=0.01)
    assert shape.memory_bytes == pytest.approx(61.06e9, rel=0.01)


def test_the_cache_of_a_token_is_keys_and_values_of_all_layers() -> None:
    assert open_shape("llama-3.1-8b").kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert open_shape("llama-3.1-8b").cost.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2


def test_a_config_file_gives_the_same_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for path in (tmp_path, tmp_path / "config.json"):
        shape = open_shape(str(path))
        assert shape.parameters == PUBLISHED["llama-3.1-8b"]
        assert shape.source == f"vllm:{tmp_path}"


def test_the_text_part_of_a_config_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": CONFIG, "vision_config": {}}))
    assert open_shape(str(tmp_path)).parameters == PUBLISHED["llama-3.1-8b"]


def test_quantised_weights_and_caches_take_less() -> None:
    shape = open_shape("llama-3.1-8b", weight_bytes=0.5, kv_bytes=1.0)
    assert shape.memory_bytes == pytest.approx(4.015e9, rel=0.001)
    assert shape.kv_bytes_per_token == 2 * 32 * 8 * 128


def test_an_unknown_name_says_what_is_known() -> None:
    with pytest.raises(UnknownName, match=r"config\.json"):
        open_shape("gpt-7")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot use"),
        ("[]", "cannot use"),
        ("{}", "hidden_size"),
        (json.dumps({**CONFIG, "hidden_size": -1}), "hidden_size"),
        (json.dumps({**CONFIG, "num_hidden_layers": 10**9}), "num_hidden_layers"),
        (json.dumps({**CONFIG, "vocab_size": None}), "vocab_size"),
        ("[" * 100_000, "cannot use"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_by_field(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidRequest, match=reason):
        open_shape(str(tmp_path))
