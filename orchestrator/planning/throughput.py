"""How long a model's steps take on some GPUs, idealised: compute or memory traffic, whichever takes longer (roofline).

Nothing here is measured. Every number that is assumed is a field of `Assumptions`; measured profiles
(`orchestrator.planning.profiles`) win over what comes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvalidRequest
from orchestrator.planning.catalogue import GpuType
from orchestrator.planning.shapes import ModelShape

Numbers = NDArray[np.float64]

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is assumed where nothing was measured.

    Attributes:
        compute: Share of peak FLOPs that a forward pass reaches.
        bandwidth: Share of peak memory bandwidth that decoding reaches.
        link: Share of peak link bandwidth that an all-reduce reaches.
        link_latency_s: Of one all-reduce.
        step_s: Time of a step that is neither computing nor memory traffic: scheduling, launches, sampling.
        memory: Share of a GPU's memory that the engine may use.
        reserved_gib: Of that, what activations and graphs take on each GPU.
        max_sequences: Most that one engine decodes at once.
        chunk_tokens: Most prompt tokens that one step computes beside the decoding.
    """

    compute: float = 0.5
    bandwidth: float = 0.8
    link: float = 0.7
    link_latency_s: float = 20e-6
    step_s: float = 2e-3
    memory: float = 0.9
    reserved_gib: float = 1.0
    max_sequences: int = 256
    chunk_tokens: int = 2048

    def __post_init__(self) -> None:
        for name in ("compute", "bandwidth", "link", "memory"):
            if not 0 < getattr(self, name) <= 1:
                raise _outside(name, getattr(self, name), "more than 0 and at most 1")
        for name in ("link_latency_s", "step_s", "reserved_gib"):
            if not 0 <= getattr(self, name) <= 1e3:
                raise _outside(name, getattr(self, name), "0 to 1000")
        for name in ("max_sequences", "chunk_tokens"):
            if not 1 <= getattr(self, name) <= 1e6:
                raise _outside(name, getattr(self, name), "1 to 1,000,000")

    @classmethod
    def parse(cls, text: str) -> Assumptions:
        """Of ``"compute=0.4,step_s=0.003"``; what is not named is ours.

        Raises:
            InvalidRequest: There is no such assumption, or its value is out of range.
        """
        known = {field.name: field for field in fields(cls)}
        values: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            if name not in known:
                raise InvalidRequest(
                    f"there is no assumption {name!r}; known: {', '.join(known)}", field="assume", value=part
                )
            is_count = name in {"max_sequences", "chunk_tokens"}
            try:
                values[name] = int(value) if is_count else float(value)
            except ValueError:
                raise _outside(name, value, "a whole number" if is_count else "a number") from None
        return replace(cls(), **values)  # type: ignore[arg-type]  # counts are whole, see above


def _outside(name: str, value: object, allowed: str) -> InvalidRequest:
    return InvalidRequest(f"assumption {name} = {value} must be {allowed}", field="assume", value=value)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One replica of a model: its shape on so many GPUs of a type, tensor parallel.

    Attributes:
        shape: The model.
        gpu: The type.
        gpus: How many.
    """

    shape: ModelShape
    gpu: GpuType
    gpus: int

    @property
    def label(self) -> str:
        """For people: ``L4`` or ``4 x L4``."""
        return self.gpu.name if self.gpus == 1 else f"{self.gpus} x {self.gpu.name}"


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds that steps of a replica take, on paper.

    Attributes:
        deployment: The replica.
        assumed: What is assumed.
        draft: A model in the same memory, with a cache of its own for the same tokens; None for none.
    """

    deployment: Deployment
    assumed: Assumptions = Assumptions()
    draft: ModelShape | None = None

    @property
    def kv_tokens(self) -> float:
        """Tokens whose KV fits beside the weights; negative if the weights do not fit."""
        gpu, gpus = self.deployment.gpu, self.deployment.gpus
        models = [self.deployment.shape, *([] if self.draft is None else [self.draft])]
        usable = gpus * (gpu.memory_bytes * self.assumed.memory - self.assumed.reserved_gib * _GIB)
        free = usable - sum(model.memory_bytes for model in models)
        return free / sum(model.kv_bytes_per_token * max(1.0, gpus / model.kv_heads) for model in models)

    def decode_s(self, batch: Numbers | float, context: Numbers | float) -> Numbers:
        """One token for each of ``batch`` sequences whose mean context is ``context`` tokens."""
        sequences = np.maximum(batch, 1.0)
        return self.forward_s(sequences, read_tokens=sequences * context)

    def forward_s(self, tokens: Numbers | float, *, read_tokens: Numbers | float) -> Numbers:
        """A step that computes ``tokens`` tokens and reads the KV of ``read_tokens``.

        max(FLOPs / compute, bytes / bandwidth) + all-reduces + overhead, with 2 P n + 4 H r FLOPs for n tokens which
        attend to r others in sum, and the weights that n tokens touch plus the KV of r tokens for bytes.
        """
        shape, gpu, gpus = self.deployment.shape, self.deployment.gpu, self.deployment.gpus
        flops = 2.0 * shape.active_parameters * tokens + 4.0 * shape.attention_width * read_tokens
        compute_s = flops / (gpus * gpu.fp16_tflops * 1e12 * self.assumed.compute)
        read = self._weights_read(tokens) + read_tokens * shape.kv_bytes_per_token * self._kv_copies
        memory_s = read / (gpus * gpu.bandwidth_gb_s * 1e9 * self.assumed.bandwidth)
        return np.asarray(np.maximum(compute_s, memory_s) + self._reduce_s(tokens) + self.assumed.step_s)

    def prefill_s(self, tokens: Numbers | float, cached: Numbers | float = 0.0) -> Numbers:
        """``tokens`` prompt tokens after ``cached`` ones whose KV is there: 2 P n + 2 H n (2 s + n) FLOPs."""
        shape, gpu, gpus = self.deployment.shape, self.deployment.gpu, self.deployment.gpus
        flops = 2.0 * shape.active_parameters * tokens + 2.0 * shape.attention_width * tokens * (2.0 * cached + tokens)
        compute_s = flops / (gpus * gpu.fp16_tflops * 1e12 * self.assumed.compute)
        return np.asarray(compute_s + self._reduce_s(tokens))

    def _weights_read(self, tokens: Numbers | float) -> Numbers | float:
        """All of a dense model's; of experts, those that at least one of ``tokens`` is sent to."""
        shape = self.deployment.shape
        share = shape.active_parameters / shape.parameters
        return shape.memory_bytes * (1.0 - (1.0 - share) ** tokens) if share < 1 else shape.memory_bytes

    def _reduce_s(self, tokens: Numbers | float) -> Numbers | float:
        """Two all-reduces a layer of a 16-bit hidden state: a ring sends 2 (k - 1) / k of it over each link."""
        shape, gpu, gpus = self.deployment.shape, self.deployment.gpu, self.deployment.gpus
        if gpus == 1:
            return 0.0
        sent = 2.0 * (gpus - 1) / gpus * 2.0 * shape.hidden * tokens
        return 2 * shape.layers * (self.assumed.link_latency_s + sent / (gpu.link_gb_s * 1e9 * self.assumed.link))

    @property
    def _kv_copies(self) -> float:
        return max(1.0, self.deployment.gpus / self.deployment.shape.kv_heads)
