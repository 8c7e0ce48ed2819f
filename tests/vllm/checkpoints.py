"""Small checkpoints for vLLM: random weights under the lab's vocabulary, written to a folder in a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from orchestrator.bench.lab.model_names import WEIGHTS

STEP_TAG = "<extra_0>"


def random_llama(folder: Path, *, context: int = 2048, seed: int = 0, layers: int = 2, width: int = 64) -> Path:
    """A Llama that babbles; it hardly ever ends its turn."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **_shape(layers, width), max_position_embeddings=context, tie_word_embeddings=False, torch_dtype="float32"
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    _copy_tokenizer(folder, context)
    return folder


def random_embedder(folder: Path, *, context: int = 512, seed: int = 0) -> Path:
    """A Qwen2 without a head, whose last token's state is the text's vector."""
    import torch
    from transformers import Qwen2Config, Qwen2Model

    torch.manual_seed(seed)
    Qwen2Model(Qwen2Config(**_shape(2, 64), max_position_embeddings=context)).save_pretrained(folder)
    _copy_tokenizer(folder, context)
    return folder


def random_reward_model(folder: Path, *, context: int = 512, seed: int = 0) -> Path:
    """Qwen2.5-Math-PRM's form: Qwen2 and two layers on top that give each token two classes; tag ``<extra_0>``."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2Model

    torch.manual_seed(seed)
    config = Qwen2Config(**_shape(2, 64), max_position_embeddings=context)
    weights = {f"model.{name}": weight for name, weight in Qwen2Model(config).state_dict().items()}
    for place, (rows, columns) in {0: (64, 64), 2: (2, 64)}.items():
        weights[f"score.{place}.weight"] = torch.randn(rows, columns) / 8
        weights[f"score.{place}.bias"] = torch.randn(rows) / 8
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    stated = config.to_dict() | {"architectures": ["Qwen2ForProcessRewardModel"], "num_labels": 2}
    (folder / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    _copy_tokenizer(folder, context)
    _add_tag(folder / "tokenizer.json")
    return folder


def random_eagle3(folder: Path, target: Path, *, seed: int = 0) -> Path:
    """An EAGLE-3 head for a Llama: one layer that reads the last token and three states of the target's; it guesses
    without having learned to. Embedding and head are the target's form, with random weights of their own.
    """
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    stated = json.loads((target / "config.json").read_text(encoding="utf-8"))
    width, inner, vocabulary = stated["hidden_size"], stated["intermediate_size"], stated["vocab_size"]
    queries = stated["num_attention_heads"] * stated["head_dim"]
    keys = stated["num_key_value_heads"] * stated["head_dim"]
    shapes = {
        "embed_tokens.weight": (vocabulary, width),
        "lm_head.weight": (vocabulary, width),
        "fc.weight": (width, 3 * width),
        "midlayer.self_attn.q_proj.weight": (queries, 2 * width),
        "midlayer.self_attn.k_proj.weight": (keys, 2 * width),
        "midlayer.self_attn.v_proj.weight": (keys, 2 * width),
        "midlayer.self_attn.o_proj.weight": (width, queries),
        "midlayer.mlp.gate_proj.weight": (inner, width),
        "midlayer.mlp.up_proj.weight": (inner, width),
        "midlayer.mlp.down_proj.weight": (width, inner),
    }
    weights = {name: torch.randn(rows, columns) / columns**0.5 for name, (rows, columns) in shapes.items()}
    norms = ("norm", "midlayer.hidden_norm", "midlayer.input_layernorm", "midlayer.post_attention_layernorm")
    weights |= {f"{norm}.weight": torch.ones(width) for norm in norms}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    own = {"architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1, "draft_vocab_size": vocabulary}
    own |= {"tie_word_embeddings": False, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(stated | own), encoding="utf-8")
    return folder


def _shape(layers: int, width: int) -> dict[str, Any]:
    vocabulary = json.loads((WEIGHTS / "small" / "config.json").read_text(encoding="utf-8"))
    return {
        "vocab_size": vocabulary["vocab_size"],
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "bos_token_id": vocabulary["bos_token_id"],
        "eos_token_id": vocabulary["eos_token_id"],
        "initializer_range": 0.3,
    }


def _copy_tokenizer(folder: Path, context: int) -> None:
    shutil.copy(WEIGHTS / "small" / "tokenizer.json", folder)
    stated = json.loads((WEIGHTS / "small" / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(stated | {"model_max_length": context}), encoding="utf-8")


def _add_tag(path: Path) -> None:
    """Gives one of the vocabulary's unused tokens the tag's text."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("<unused0>", STEP_TAG), encoding="utf-8")
