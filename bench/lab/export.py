"""Writes trained models as GGUF for the embedded engine, and as safetensors folders for vLLM and transformers.

``python -m orchestrator.bench.lab.export CHECKPOINT... [--out bench/lab/weights]``; each GGUF is read back with
llama.cpp, which must encode the tasks' texts and compute the same logits as PyTorch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.bench.lab.checkpoint import load_file
from orchestrator.bench.lab.hugging_face import Array, hf_weights, write_safetensors
from orchestrator.bench.lab.model import HEAD_WIDTH, MAX_TOKENS, NORM_EPS, ROPE_BASE, Llama
from orchestrator.bench.lab.model_names import REWARD_MODEL
from orchestrator.bench.lab.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    SEPARATOR_TEXT,
    UNKNOWN,
    VOCABULARY,
    encode,
)
from orchestrator.bench.lab.tokenizer import prompt_ids as expected_prompt
from orchestrator.bench.tasks import TASKS
from orchestrator.bench.tasks.task import STEP_DELIMITER

_LOGIT_TOLERANCE = 4e-3
"""Of the range of the logits; llama.cpp rounds weights, activations and the KV cache to float16."""


def interleaved(weight: Array, heads: int) -> Array:
    """Rows of q or k reordered from halves to neighbouring pairs, as llama.cpp rotates them."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_weights(model: Llama) -> Iterator[tuple[str, Array]]:
    """Weights under the names and in the layout of llama.cpp."""
    for name, weight in hf_weights(model).items():
        if not name.startswith("model.layers."):
            yield (
                {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name],
                weight,
            )
            continue
        index, _, kind = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
        if kind.endswith(("q_proj", "k_proj")):
            weight = interleaved(weight, model.size.heads)
        yield f"blk.{index}.{_GGUF_NAMES[kind]}.weight", weight


def write_gguf(model: Llama, path: Path, *, name: str, facts: dict[str, Any]) -> None:  # Any: JSON values
    """One file with matrices in float16, the vocabulary and the chat template."""
    import gguf

    size = model.size
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")  # an engine may have the old file mapped
    writer = gguf.GGUFWriter(str(partial), "llama")
    writer.add_name(f"ttc-lab-{name}")
    writer.add_license("apache-2.0")
    writer.add_description(
        json.dumps({key: facts[key] for key in ("steps", "tokens", "train_s", "seeds") if key in facts})
    )
    writer.add_context_length(MAX_TOKENS)
    writer.add_embedding_length(size.width)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.hidden)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.text for token in VOCABULARY])
    writer.add_token_scores([-float(index) for index in range(len(VOCABULARY))])
    writer.add_token_types([token.kind for token in VOCABULARY])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    if name == REWARD_MODEL:
        for key, text in (("tag", STEP_DELIMITER), ("good", "+"), ("bad", "-")):
            writer.add_string(f"ttc.step_{key}", text)
    for key, weight in gguf_weights(model):
        writer.add_tensor(key, weight.astype(np.float16) if weight.ndim == 2 else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def check_gguf(model: Llama, path: Path, *, num_problems: int) -> dict[str, float]:
    """Holds a GGUF against PyTorch.

    Raises:
        ValueError: llama.cpp encodes a text of the tasks otherwise, or computes other logits.
    """
    import llama_cpp

    theirs = llama_cpp.Llama(
        str(path), n_ctx=MAX_TOKENS, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True
    )
    rng = random.Random(5)
    largest, reach, disagreements, positions = 0.0, 1.0, 0, 0
    for number in range(num_problems):
        task = list(TASKS.values())[number % len(TASKS)]
        example = task.example(rng, rng.choice(task.complexities))
        ids = expected_prompt(example.problem) + encode(example.solution)
        text = example.problem + SEPARATOR_TEXT + example.solution
        found = theirs.tokenize(text.encode(), add_bos=True, special=True)
        if found != list(ids) or theirs.detokenize(found).decode() != text:
            raise ValueError(f"{path} encodes {text!r} as {found}, not {list(ids)}")
        if number < 30:
            theirs.reset()  # type: ignore[no-untyped-call]
            theirs.eval(found)
            scores = np.asarray(theirs.scores[: len(found)])
            with torch.no_grad():
                own = model(torch.tensor([found]))[0].numpy()
            reach = max(reach, float(np.ptp(own, axis=-1).max()))
            largest = max(largest, float(np.abs(_centred(scores) - _centred(own)).max()))
            disagreements += int((scores.argmax(-1) != own.argmax(-1)).sum())
            positions += len(found)
    if largest > _LOGIT_TOLERANCE * reach:
        raise ValueError(f"{path}: logits differ by {largest:.4f} from PyTorch's")
    return {
        "problems": num_problems,
        "largest_difference": largest,
        "logit_range": reach,
        "argmax_disagreements": disagreements / positions,
    }


def _centred(logits: Array) -> Array:
    centred: Array = logits - logits.mean(-1, keepdims=True)
    return centred


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+", type=Path, help="NAME.pt as train and prm leave them")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("weights"))
    parser.add_argument("--problems", type=int, default=1000, help="texts whose encoding is compared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for checkpoint in options.checkpoints:
        model, facts = load_file(checkpoint)
        model.eval()
        path = options.out / f"{checkpoint.stem}.gguf"
        write_gguf(model, path, name=checkpoint.stem, facts=facts)
        checked = check_gguf(model, path, num_problems=options.problems)
        write_safetensors(model, options.out / checkpoint.stem, facts)
        print(f"{path} {path.stat().st_size / 1e6:.2f} MB {json.dumps(checked)}", file=sys.stdout)


if __name__ == "__main__":
    main()
