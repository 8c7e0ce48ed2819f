"""Replicas on paper: from a model's shape, a GPU of the catalogue and what is assumed, or from a fleet file.

The numbers are those of `orchestrator.planning.throughput`, so that ``ttc plan`` and the simulation speak of the same
replica. A mixture of experts reads all of its weights in every step here, which large batches come near to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import FleetFile, ModelEntry
from orchestrator.planning.catalogue import Catalogue, GpuType
from orchestrator.planning.shapes import ModelShape, open_shape, presets
from orchestrator.planning.simulation.controllers import ControllerSpec
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.step_time import Plane, StepTime
from orchestrator.planning.simulation.system import SystemSpec
from orchestrator.planning.throughput import Assumptions, Deployment, StepTimes

_BATCH_ARGUMENTS = ("max_sequences", "max_num_seqs")
_STEP_ARGUMENTS = ("max_step_tokens", "max_num_batched_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What replicas are made of where nothing is measured.

    Attributes:
        catalogue: GPUs.
        assumed: How much of them is reached.
        shapes: Model of the fleet -> its shape, where the fleet's own text does not say.
        measured: Model of the fleet -> step times that win over those on paper.
    """

    catalogue: Catalogue
    assumed: Assumptions = field(default_factory=Assumptions)
    shapes: Mapping[str, ModelShape] | None = None
    measured: Mapping[str, StepTime] | None = None

    def replica(self, shape: ModelShape, gpu: GpuType, gpus: float, *, step: StepTime | None = None) -> ReplicaSpec:
        """One replica.

        Args:
            shape: The model.
            gpu: The type.
            gpus: How many; a share of one computes, moves and holds that share.
            step: Measured step times; None for those on paper.

        Raises:
            InvalidRequest: The model does not fit.
        """
        whole = max(1, round(gpus))
        times = StepTimes(Deployment(shape, gpu, whole), self.assumed)
        share = min(1.0, gpus)
        usable = share * whole * gpu.memory_bytes * self.assumed.memory - whole * self.assumed.reserved_gib * 2**30
        kv_tokens = int((usable - shape.memory_bytes) / shape.kv_bytes_per_token)
        if kv_tokens < 1:
            raise InvalidRequest(
                f"{shape.name} takes {shape.memory_bytes / 2**30:.1f} GiB and does not fit on {gpus:g} x {gpu.name}; "
                "give it more GPUs, or other ones",
                field="gpus",
                value=gpus,
            )
        return ReplicaSpec(
            step=step or _planes(times, share),
            max_sequences=self.assumed.max_sequences,
            max_step_tokens=self.assumed.chunk_tokens,
            kv_tokens=kv_tokens,
        )

    def pool(self, name: str, entry: ModelEntry) -> PoolSpec:
        """A model of a fleet, with the fewest replicas that are always there (at least one).

        Raises:
            InvalidRequest: It is not known what the model is, or what it runs on.
        """
        shape, gpu = self._shape(name, entry), self._gpu(name, entry)
        step = (self.measured or {}).get(name)
        replica = self.replica(shape, gpu, entry.accelerator.gpus, step=step)
        batch = _argument(entry, _BATCH_ARGUMENTS, replica.max_sequences)
        chunk = _argument(entry, _STEP_ARGUMENTS, replica.max_step_tokens)
        affinity = entry.affinity
        return PoolSpec(
            replica=ReplicaSpec(
                step=replica.step, max_sequences=batch, max_step_tokens=chunk, kv_tokens=replica.kv_tokens
            ),
            num_replicas=max(1, entry.replicas.min),
            max_ongoing=entry.max_ongoing,
            max_queued=1 << 30 if entry.max_queued is None else entry.max_queued,
            routing="affinity" if affinity.get("is_on", True) else "two_choices",
            affinity_absolute=int(affinity.get("abs_threshold", 16)),
            affinity_relative=float(affinity.get("rel_threshold", 1.5)),
            affinity_new=int(affinity.get("new_threshold", 2)),
            usd_per_hour=_usd_per_hour(entry, gpu),
            gpus_per_replica=entry.accelerator.gpus,
        )

    def fleet(self, fleet: FleetFile, *, controllers: ControllerSpec | None = None) -> SystemSpec:
        """A fleet file's models; all that have a role that jobs call."""
        pools = {name: self.pool(name, entry) for name, entry in fleet.models.items()}
        return SystemSpec(pools=pools, roles=fleet.roles, controllers=controllers or ControllerSpec())

    def _shape(self, name: str, entry: ModelEntry) -> ModelShape:
        given = (self.shapes or {}).get(name)
        if given is not None:
            return given
        for shape in presets().values():
            if entry.model in {shape.source, shape.name, shape.source.partition(":")[2]}:
                return shape
        raise InvalidRequest(
            f"models.{name}: it is not known how large {entry.model!r} is; say it with --shape {name}=MODEL, a name of "
            "ttc plan models or a config.json",
            field="shape",
            value=entry.model,
        )

    def _gpu(self, name: str, entry: ModelEntry) -> GpuType:
        if entry.accelerator.gpus <= 0:
            raise InvalidRequest(
                f"models.{name} has no accelerator; the simulation needs one to know how long a step takes: "
                f'accelerator = {{ kind = "A10G", gpus = 1 }}',
                field="accelerator",
            )
        kind = entry.accelerator.kind
        for gpu in self.catalogue.gpus.values():
            if kind in {gpu.kind, gpu.name}:
                return gpu
        known = ", ".join(sorted({gpu.kind for gpu in self.catalogue.gpus.values()}))
        raise InvalidRequest(
            f"models.{name}.accelerator.kind = {kind!r} is not in the catalogue of GPUs; known: {known}",
            field="accelerator",
            value=kind,
        )


def open_shapes(texts: Mapping[str, str]) -> dict[str, ModelShape]:
    """Shapes by the fleet's names for them."""
    return {name: open_shape(text) for name, text in texts.items()}


def _planes(times: StepTimes, share: float) -> StepTime:
    """`StepTimes.forward_s` as two planes; what a token adds to all-reduces is the same in both."""
    deployment, assumed = times.deployment, times.assumed
    shape, gpu, gpus = deployment.shape, deployment.gpu, deployment.gpus
    flops = share * gpus * gpu.fp16_tflops * 1e12 * assumed.compute
    moved = share * gpus * gpu.bandwidth_gb_s * 1e9 * assumed.bandwidth
    reduce_s = reduce_token_s = 0.0
    if gpus > 1:
        reduce_s = 2 * shape.layers * assumed.link_latency_s
        sent = 2.0 * (gpus - 1) / gpus * 2.0 * shape.hidden
        reduce_token_s = 2 * shape.layers * sent / (gpu.link_gb_s * 1e9 * assumed.link)
    token_s = 2.0 * shape.active_parameters / flops + reduce_token_s
    pair_s = 4.0 * shape.attention_width / flops
    copies = max(1.0, gpus / shape.kv_heads)
    return StepTime(
        overhead_s=assumed.step_s + reduce_s,
        compute=Plane(sequence_s=token_s, context_s=pair_s, prompt_s=token_s, pair_s=pair_s),
        memory=Plane(
            fixed_s=shape.memory_bytes / moved,
            sequence_s=reduce_token_s,
            prompt_s=reduce_token_s,
            context_s=shape.kv_bytes_per_token * copies / moved,
        ),
    )


def _argument(entry: ModelEntry, names: tuple[str, ...], default: int) -> int:
    for name in names:
        value = entry.engine.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return default


def _usd_per_hour(entry: ModelEntry, gpu: GpuType) -> float:
    hourly = entry.prices.accelerator_hour_usd
    return (gpu.usd_per_gpu_hour if hourly is None else hourly) * entry.accelerator.gpus
