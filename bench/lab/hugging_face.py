"""The lab's models as Hugging Face folders: safetensors, configuration and tokenizer, which vLLM and transformers load.

They are also the checkpoints from which training goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from orchestrator.bench.lab.model import HEAD_WIDTH, MAX_TOKENS, NORM_EPS, ROPE_BASE, Llama, Size
from orchestrator.bench.lab.tokenizer import BOS, CHAT_TEMPLATE, EOS, VOCABULARY

Array = npt.NDArray[np.float32]


def hf_weights(model: Llama) -> dict[str, Array]:
    """Weights under the names and in the layout of Hugging Face's Llama; the tied head is left out."""
    size = model.size
    own = {name: weight.detach().float().cpu().numpy() for name, weight in model.state_dict().items()}
    result = {"model.embed_tokens.weight": own["embedding.weight"], "model.norm.weight": own["norm"]}
    for index in range(size.layers):
        theirs, ours = f"model.layers.{index}.", f"layers.{index}."
        q, k, v = _split_heads(own[ours + "qkv.weight"], size)
        gate, up = np.split(own[ours + "gate_up.weight"], 2)
        result |= {
            theirs + "input_layernorm.weight": own[ours + "attention_norm"],
            theirs + "self_attn.q_proj.weight": q,
            theirs + "self_attn.k_proj.weight": k,
            theirs + "self_attn.v_proj.weight": v,
            theirs + "self_attn.o_proj.weight": own[ours + "output.weight"],
            theirs + "post_attention_layernorm.weight": own[ours + "ffn_norm"],
            theirs + "mlp.gate_proj.weight": gate,
            theirs + "mlp.up_proj.weight": up,
            theirs + "mlp.down_proj.weight": own[ours + "down.weight"],
        }
    return result


def _split_heads(qkv: Array, size: Size) -> tuple[Array, Array, Array]:
    """The model views its product as [3 * heads, head width]: all of q's heads, then k's, then v's."""
    q, k, v = qkv.reshape(3, size.width, size.width)
    return q, k, v


def write_safetensors(model: Llama, folder: Path, facts: dict[str, Any]) -> None:  # Any: JSON values
    """A folder as transformers and vLLM load it, tokenizer included."""
    from safetensors.numpy import save_file

    size = model.size
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.astype(np.float16) for name, weight in hf_weights(model).items()},
        str(folder / "model.safetensors"),
        metadata={"format": "pt", "facts": json.dumps(facts)},
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(VOCABULARY),
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": HEAD_WIDTH,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_BASE,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "float16",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_TOKENS,
    }
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", hf_tokenizer()),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_safetensors(folder: Path) -> tuple[Llama, dict[str, Any]]:  # Any: JSON values
    """A model from such a folder, and what is known of it; the inverse of `write_safetensors`, up to rounding."""
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(str(folder / "model.safetensors"), "np") as file:
        stored = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118  # no dict
        facts = json.loads(file.metadata()["facts"])
    size = Size(config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"], facts["learning_rate"])
    own = {"embedding.weight": stored["model.embed_tokens.weight"], "norm": stored["model.norm.weight"]}
    for index in range(size.layers):
        theirs, ours = f"model.layers.{index}.", f"layers.{index}."
        attention = [stored[f"{theirs}self_attn.{part}_proj.weight"] for part in "qkv"]
        gate_up = [stored[f"{theirs}mlp.{part}_proj.weight"] for part in ("gate", "up")]
        own |= {
            ours + "attention_norm": stored[theirs + "input_layernorm.weight"],
            ours + "qkv.weight": np.concatenate(attention),
            ours + "output.weight": stored[theirs + "self_attn.o_proj.weight"],
            ours + "ffn_norm": stored[theirs + "post_attention_layernorm.weight"],
            ours + "gate_up.weight": np.concatenate(gate_up),
            ours + "down.weight": stored[theirs + "mlp.down_proj.weight"],
        }
    model = Llama(size)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in own.items()})
    return model, facts


def hf_tokenizer() -> dict[str, Any]:  # Any: JSON values
    """The vocabulary as a tokenizer.json: byte-pair merges, which join neighbours as SentencePiece does.

    That is by the text they make, whatever two tokens it is made of; the text that comes first in the vocabulary first.
    """
    ids = {token.text: index for index, token in enumerate(VOCABULARY)}
    longer = [token.text for token in VOCABULARY if token.kind == 1 and len(token.text) > 1]
    splits = [(text[:place], text[place:]) for text in longer for place in range(1, len(text))]
    merges = [[left, right] for left, right in splits if left in ids and right in ids]
    special = [index for index, token in enumerate(VOCABULARY) if token.kind in {2, 3}]
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": index,
                "content": VOCABULARY[index].text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index in special
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }
