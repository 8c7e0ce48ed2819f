"""Whether weights and KV caches of a fleet fit where they are to be: on accelerators, or in the memory of machines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from orchestrator.api.fleets.findings import Finding, error, note, warning
from orchestrator.api.fleets.footprint import Footprint, Where
from orchestrator.config import Settings
from orchestrator.fleet_file import LOCAL, FleetFile, ModelEntry
from orchestrator.fleet_file.opening import engine_of
from orchestrator.planning.catalogue import Catalogue

_GIB = 1 << 30
_EMBEDDED = ("llama_cpp", "lab")
_DEFAULT_CELLS = 8192
"""Cells of the embedded engine's cache unless `context_cells` says otherwise."""
_LAB_CELLS = 16_384
_VLLM_SHARE = 0.9
"""Of an accelerator's memory, what vLLM takes unless `gpu_memory_utilization` says otherwise."""
_SHARE_OF_SHARE = 0.95
"""Of a share's memory, what a replica on a share of an accelerator gives to vLLM."""

Known = Mapping[str, tuple[Settings, Footprint]]


def memory_findings(fleet: FleetFile, known: Known) -> list[Finding]:
    """What does not fit, or cannot be told.

    Args:
        fleet: The file.
        known: Settings and footprint of each model that can be opened.
    """
    findings: list[Finding] = []
    in_main_memory: dict[str, float] = {}
    for name, (settings, footprint) in known.items():
        entry = fleet.models[name]
        if footprint.where is Where.ELSEWHERE:
            continue
        if engine_of(entry.model) == "vllm" and entry.accelerator.gpus:
            findings += _vllm_findings(name, entry, settings, footprint)
        elif engine_of(entry.model) in _EMBEDDED:
            needed = _embedded_bytes(entry, settings, footprint)
            if entry.accelerator.gpus and settings.llama_cpp.num_gpu_layers:
                findings += _embedded_on_gpu(name, entry, needed)
                continue
            if entry.accelerator.gpus:
                findings.append(
                    warning(
                        f"models.{name}.engine",
                        "it is given an accelerator and computes on the processor; add num_gpu_layers = -1",
                    )
                )
            in_main_memory[name] = needed
    findings += _utilisation_findings(fleet, known)
    findings += _main_memory_findings(fleet, in_main_memory)
    return findings


def memory_of(entry: ModelEntry) -> float | None:
    """Bytes of one whole accelerator of a model; None if they are not known."""
    accelerator = entry.accelerator
    if accelerator.memory_gib is not None:
        return accelerator.memory_gib * _GIB
    known = {gpu.kind: gpu.memory_bytes for gpu in Catalogue.default().gpus.values()}
    return known.get(accelerator.kind or "")


def utilisation(entry: ModelEntry, settings: Settings) -> float:
    """Share of one accelerator's memory that vLLM takes."""
    given = settings.vllm.gpu_memory_utilization
    if given is not None:
        return given
    return _SHARE_OF_SHARE * entry.accelerator.gpus if entry.accelerator.is_shared else _VLLM_SHARE


def _vllm_findings(name: str, entry: ModelEntry, settings: Settings, footprint: Footprint) -> Iterator[Finding]:
    place, gpus = f"models.{name}.accelerator", entry.accelerator.gpus
    parallel = settings.vllm.tensor_parallel_size or 1
    if gpus >= 1 and parallel != gpus:
        yield error(
            f"models.{name}.engine.tensor_parallel_size",
            f"{parallel} accelerators share the model and a replica is given {gpus:g}; make both the same",
        )
        return
    whole = memory_of(entry)
    if whole is None or footprint.weight_bytes is None:
        what = "memory_gib of its accelerator" if whole is None else "the size of its weights"
        yield note(place, f"whether it fits is not known, because {what} is not")
        return
    weights = footprint.weight_bytes / parallel
    if (cache_gib := settings.vllm.kv_cache_gib) is not None:
        yield from _fixed_cache_findings(place, entry, footprint, weights=weights, cache=cache_gib * _GIB, whole=whole)
        return
    has = whole * utilisation(entry, settings)
    per_token = (footprint.kv_bytes_per_token or 0.0) / parallel
    context = footprint.context * per_token
    shown = f"{has / _GIB:.1f} GiB ({utilisation(entry, settings):.0%} of {whole / _GIB:.1f})"
    if weights >= has:
        yield error(place, f"its weights take {weights / _GIB:.1f} GiB, and a replica has {shown}")
    elif weights + context > has:
        most = int((has - weights) / per_token)
        yield error(
            place,
            f"weights of {weights / _GIB:.1f} GiB and the cache of one sequence of {footprint.context:,} tokens "
            f"({context / _GIB:.1f} GiB) do not fit into {shown}; give it more, or engine.max_model_len = {most}",
        )
    elif per_token:
        room = (has - weights) / per_token
        yield note(
            place,
            f"about {room:,.0f} tokens of KV cache beside {weights / _GIB:.1f} GiB of weights in {shown}, less what "
            "activations take",
        )


def _fixed_cache_findings(
    place: str, entry: ModelEntry, footprint: Footprint, *, weights: float, cache: float, whole: float
) -> Iterator[Finding]:
    has = whole * min(entry.accelerator.gpus, 1.0)
    if weights + cache > has:
        yield error(
            place,
            f"weights of {weights / _GIB:.1f} GiB and engine.kv_cache_gib = {cache / _GIB:g} do not fit into "
            f"{has / _GIB:.1f} GiB; lower kv_cache_gib, or give it more",
        )
    elif footprint.context * (footprint.kv_bytes_per_token or 0.0) > cache * max(entry.accelerator.gpus, 1.0):
        yield error(
            place,
            f"engine.kv_cache_gib = {cache / _GIB:g} does not hold one sequence of {footprint.context:,} tokens; raise "
            "it, or lower engine.max_model_len",
        )


def _utilisation_findings(fleet: FleetFile, known: Known) -> Iterator[Finding]:
    """Models that share an accelerator take shares of its memory, too."""
    for name, (settings, _) in known.items():
        entry = fleet.models[name]
        if engine_of(entry.model) != "vllm" or not entry.accelerator.is_shared:
            continue
        share, taken = entry.accelerator.gpus, utilisation(entry, settings)
        if taken > share + 1e-9:
            yield error(
                f"models.{name}.engine.gpu_memory_utilization",
                f"{taken:g} of an accelerator's memory is more than its share of the accelerator, {share:g}; what "
                "shares the accelerator with it would find no room",
            )


def _embedded_bytes(entry: ModelEntry, settings: Settings, footprint: Footprint) -> float:
    default = _LAB_CELLS if engine_of(entry.model) == "lab" else _DEFAULT_CELLS
    cells = settings.llama_cpp.context_cells or default
    return (footprint.weight_bytes or 0.0) + cells * (footprint.kv_bytes_per_token or 0.0)


def _embedded_on_gpu(name: str, entry: ModelEntry, needed: float) -> Iterator[Finding]:
    whole = memory_of(entry)
    if whole is None:
        yield note(f"models.{name}.accelerator", "whether it fits is not known; add memory_gib, or its kind")
        return
    has = whole * min(entry.accelerator.gpus, 1.0)
    if needed > has:
        yield error(
            f"models.{name}.accelerator",
            f"weights and cache take {needed / _GIB:.1f} GiB, and a replica has {has / _GIB:.1f}; lower "
            "engine.context_cells, or give it more",
        )


def _main_memory_findings(fleet: FleetFile, needed: Mapping[str, float]) -> Iterator[Finding]:
    if not needed:
        return
    is_here = not fleet.has_cluster or fleet.cluster.ray == LOCAL
    if is_here:
        counts = {name: fleet.models[name].replicas.min if fleet.has_cluster else 1 for name in needed}
        total = sum(size * max(counts[name], 1) for name, size in needed.items())
        has = _machine_bytes()
        if has is not None and total > has:
            listing = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in needed.items())
            yield error(
                "models", f"all models take {total / _GIB:.1f} GiB ({listing}); this machine has {has / _GIB:.1f}"
            )
        return
    sizes = [node.memory_gib for node in fleet.cluster.nodes.values() if node.memory_gib is not None]
    if len(sizes) < len(fleet.cluster.nodes) or not sizes:
        return
    for name, size in needed.items():
        if size > max(sizes) * _GIB:
            yield error(f"models.{name}", f"it takes {size / _GIB:.1f} GiB, and the largest node has {max(sizes):g}")


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
