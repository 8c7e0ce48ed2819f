"""Shapes of models: what their weights and their KV cache take, and what a token costs to compute.

Shapes come from a model's own `config.json`, from named presets (`models.toml`), or from the numbers themselves.
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.cost import ModelCost
from orchestrator.errors import InvalidRequest, UnknownName

_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What planning needs to know of a model.

    Attributes:
        name: What people call it.
        source: What an engine opens it by, such as `vllm:ORG/NAME`.
        parameters: All that lie in memory.
        active_parameters: Those that take part in a token's forward pass.
        layers: Transformer blocks.
        attention_width: Query heads x head dimension x layers.
        kv_width: Key-value heads x head dimension x layers.
        hidden: Width of the residual stream.
        kv_heads: Key-value heads of a layer; tensor parallelism beyond them copies the cache.
        context: Tokens, prompt and reply together.
        weight_bytes: Bytes of a parameter in memory.
        kv_bytes: Bytes of an element of the cache.
    """

    name: str
    source: str
    parameters: int
    active_parameters: int
    layers: int
    attention_width: int
    kv_width: int
    hidden: int
    kv_heads: int
    context: int
    weight_bytes: float = 2.0
    kv_bytes: float = 2.0

    @property
    def memory_bytes(self) -> float:
        """Of the weights."""
        return self.parameters * self.weight_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers."""
        return 2 * self.kv_width * self.kv_bytes

    @property
    def cost(self) -> ModelCost:
        """The same for the cost models."""
        return ModelCost(
            parameters=self.active_parameters,
            attention_width=self.attention_width,
            kv_width=self.kv_width,
            kv_bytes_per_element=math.ceil(self.kv_bytes),
        )


class ModelConfig(BaseModel):
    """What a `config.json` of a decoder model says, under its usual names; the rest is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_size: int = Field(gt=0, le=1 << 20)
    intermediate_size: int = Field(gt=0, le=1 << 22)
    num_hidden_layers: int = Field(gt=0, le=4096)
    num_attention_heads: int = Field(gt=0, le=4096)
    num_key_value_heads: int | None = Field(default=None, gt=0, le=4096)
    head_dim: int | None = Field(default=None, gt=0, le=8192)
    vocab_size: int = Field(gt=0, le=1 << 24)
    max_position_embeddings: int = Field(default=2048, gt=0, le=1 << 30)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    num_experts: int = Field(default=0, ge=0, le=4096)
    num_local_experts: int = Field(default=0, ge=0, le=4096)
    num_experts_per_tok: int = Field(default=0, ge=0, le=4096)
    moe_intermediate_size: int | None = Field(default=None, gt=0, le=1 << 22)
    torch_dtype: str | None = None
    dtype: str | None = None
    model_type: str = ""

    @property
    def heads_width(self) -> int:
        """Query heads x head dimension."""
        return self.num_attention_heads * self.width

    @property
    def width(self) -> int:
        """Of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        """As many as query heads where the file does not say."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def experts(self) -> int:
        """Of a layer; 0 for dense models."""
        return self.num_experts or self.num_local_experts

    def parameters(self, *, is_active_only: bool = False) -> int:
        """Counted from the widths: embeddings, attention, gated feed-forward (or experts and their router), norms."""
        hidden, q, kv = self.hidden_size, self.heads_width, self.kv_heads * self.width
        attention = hidden * (q + 2 * kv) + q * hidden
        if self.attention_bias or self.model_type == "qwen2":
            attention += q + 2 * kv
        if self.qk_norm or self.model_type.startswith("qwen3"):
            attention += 2 * self.width
        if self.experts:
            used = self.num_experts_per_tok or 1 if is_active_only else self.experts
            inner = self.moe_intermediate_size or self.intermediate_size
            feed_forward = used * 3 * hidden * inner + hidden * self.experts
        else:
            feed_forward = 3 * hidden * self.intermediate_size
        layer = attention + feed_forward + 2 * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + hidden

    def shape(self, name: str, *, source: str) -> ModelShape:
        """The shape of the model, with weights as they are stored, 16-bit where the file does not say."""
        layers = self.num_hidden_layers
        return ModelShape(
            name=name,
            source=source,
            parameters=self.parameters(),
            active_parameters=self.parameters(is_active_only=True),
            layers=layers,
            attention_width=self.heads_width * layers,
            kv_width=self.kv_heads * self.width * layers,
            hidden=self.hidden_size,
            kv_heads=self.kv_heads,
            context=self.max_position_embeddings,
            weight_bytes=_BYTES.get(self.dtype or self.torch_dtype or "bfloat16", 2.0),
        )


class _Preset(ModelConfig):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str


@cache
def presets() -> dict[str, ModelShape]:
    """Named shapes of public models, from their published `config.json`."""
    text = files("orchestrator.planning").joinpath("models.toml").read_text(encoding="utf-8")
    entries = tomllib.loads(text)["models"]
    shapes = {}
    for name, fields in entries.items():
        preset = _Preset.model_validate(fields)
        shapes[name] = preset.shape(name, source=preset.source)
    return shapes


def open_shape(text: str, *, weight_bytes: float | None = None, kv_bytes: float | None = None) -> ModelShape:
    """The shape that a name or a path stands for.

    Args:
        text: A preset's name, a `config.json`, or a folder that has one.
        weight_bytes: Bytes of a parameter, where weights are quantised; None as stored.
        kv_bytes: Bytes of an element of the cache; None for 2.

    Raises:
        UnknownName: Neither a preset nor a path.
        InvalidRequest: The file cannot be read or says too little.
    """
    found = presets().get(text)
    if found is None:
        path = Path(text).expanduser()
        if not path.exists():
            hint = "or write the path of a model's config.json"
            raise UnknownName(kind="model shape", name=text, known=presets(), hint=hint)
        found = read_config(path)
    if weight_bytes is not None:
        found = replace(found, weight_bytes=weight_bytes)
    return found if kv_bytes is None else replace(found, kv_bytes=kv_bytes)


def read_config(path: Path) -> ModelShape:
    """The shape in a `config.json`, or in a folder that has one.

    Raises:
        InvalidRequest: It cannot be read, is no JSON object, or lacks a field.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))  # Any: JSON
        values = values.get("text_config", values) if isinstance(values, dict) else values
        config = ModelConfig.model_validate(values)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"field {'.'.join(map(str, first['loc'])) or 'config'!r}: {first['msg']}"
        else:
            reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"cannot use {str(file)!r}: {reason}", field="model", value=str(file)) from error
    folder = file.resolve().parent
    return config.shape(folder.name, source=f"vllm:{folder}")
