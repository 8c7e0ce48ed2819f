"""What `ttc fleet check` says of a file, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.fleets import memory
from orchestrator.api.fleets.checking import check
from orchestrator.api.fleets.findings import Finding, Level, has_errors
from orchestrator.api.fleets.showing import finding_lines, verdict
from orchestrator.config import Settings, read_settings
from orchestrator.fleet_file import FleetFile
from orchestrator.workers.llama_cpp.opening import DEFAULT_CELLS
from orchestrator.workers.ray.joining import ClusterView, NodeView

GPU_NODE = {"cpus": 8, "accelerator": {"kind": "A10G", "gpus": 1, "memory_gib": 24}, "min": 0, "max": 4}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TTC_CONFIG", "")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return read_settings()


def checkpoint(folder: Path, *, vocabulary: str = "a", gigabytes: float = 3.0) -> Path:
    """A folder like a model's: 28 layers, 2 KV heads of 128, so 28,672 bytes of KV per token; weights are one hole."""
    folder.mkdir()
    shape = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
    }
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "tokenizer.json").write_text(json.dumps({"vocabulary": vocabulary}))
    with (folder / "model.safetensors").open("wb") as weights:
        weights.truncate(int(gigabytes * 1e9))
    return folder


def cluster_fleet(models: dict[str, Any], **cluster: Any) -> FleetFile:
    given = {"ray": "127.0.0.1:1", "nodes": {"gpu": GPU_NODE}, **cluster}
    return FleetFile.model_validate({"models": models, "cluster": given})


def on_gpu(model: Path | str, gpus: float = 1, **more: Any) -> dict[str, Any]:
    return {"model": f"vllm:{model}", "accelerator": {"kind": "A10G", "gpus": gpus, "memory_gib": 24}, **more}


def said(findings: list[Finding], level: Level, place: str) -> str:
    """The one message of that level about that place."""
    (message,) = [one.message for one in findings if one.level is level and one.place == place]
    return message


def places(findings: list[Finding], level: Level) -> list[str]:
    return [one.place for one in findings if one.level is level]


def test_a_laptop_s_fleet_of_models_that_are_here_has_nothing_wrong(settings: Settings):
    fleet = FleetFile.model_validate(
        {
            "models": {
                "small": {"model": "lab:small", "roles": ["small"]},
                "big": {"model": "lab:large", "roles": ["large"]},
                "judge": {"model": "lab:prm", "roles": ["verifier"]},
            }
        }
    )
    assert check(fleet, settings) == []


def test_replicas_without_a_cluster_are_said_to_have_no_effect(settings: Settings):
    fleet = FleetFile.model_validate({"models": {"m": {"model": "lab:small", "replicas": 3}}})
    assert "replicas count with" in said(check(fleet, settings), Level.NOTE, "models.m.replicas")


@pytest.mark.parametrize(
    ("entry", "place", "part"),
    [
        ({"model": "vlm:some"}, "models.m.model", "there is no engine 'vlm'; known: hosted"),
        ({"model": "no-such-model"}, "models.m.model", "unknown model 'no-such-model'"),
        ({"model": "lab:huge"}, "models.m.model", "unknown model of the lab 'huge'"),
        ({"model": "some/file.gguf"}, "models.m.model", "no model file"),
        ({"model": "ray:m"}, "models.m.model", "this is the fleet's file"),
        ({"model": "lab:small", "engine": {"cells": 1}}, "models.m.engine.cells", "no argument 'cells'"),
        ({"model": "lab:small", "affinity": {"lease_s": 0}}, "models.m.affinity.lease_s", "0 is not valid"),
        ({"model": "lab:prm", "roles": ["small"]}, "models.m.roles", "judges and does not write"),
        ({"model": "lab:small", "roles": ["large"]}, "models", "no model has the role small"),
        ({"model": "vllm:some/thing"}, "models.m.model", "pip install 'ttc-orchestrator[vllm]'"),
    ],
)
def test_what_cannot_work_is_an_error_at_its_place(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], place: str, part: str
):
    monkeypatch.setattr("orchestrator.api.fleets.checking.find_spec", lambda name: None if name == "vllm" else object())
    findings = check(FleetFile.model_validate({"models": {"m": entry}}), settings)
    assert part in said(findings, Level.ERROR, place)
    assert has_errors(findings)


def test_a_damaged_model_file_is_an_error(settings: Settings, tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(8))
    fleet = FleetFile.model_validate({"models": {"m": {"model": str(broken)}}})
    assert "no GGUF file, or damaged" in said(check(fleet, settings), Level.ERROR, "models.m.model")


def test_weights_that_are_not_here_are_named_with_their_size(settings: Settings):
    fleet = FleetFile.model_validate({"models": {"m": {"model": "smollm2-135m"}}})
    assert "(98 MB, ttc fleet up pulls it)" in said(check(fleet, settings), Level.NOTE, "models.m.model")
    offline = settings.model_copy(update={"offline": True})
    assert "offline is set" in said(check(fleet, offline), Level.WARNING, "models.m.model")
    on_cluster = cluster_fleet({"m": {"model": "smollm2-135m"}})
    assert "run on each node: ttc models pull" in said(check(on_cluster, settings), Level.NOTE, "models.m.model")


def test_weights_larger_than_the_accelerator_do_not_fit(settings: Settings, tmp_path: Path):
    fleet = cluster_fleet({"m": on_gpu(checkpoint(tmp_path / "m", gigabytes=30))})
    message = said(check(fleet, settings), Level.ERROR, "models.m.accelerator")
    assert "take 27.9 GiB, and a replica has 21.6 GiB (90% of 24.0)" in message


def test_the_cache_of_one_long_sequence_has_to_fit_beside_the_weights(settings: Settings, tmp_path: Path):
    folder = checkpoint(tmp_path / "m", gigabytes=22.5)
    message = said(check(cluster_fleet({"m": on_gpu(folder)}), settings), Level.ERROR, "models.m.accelerator")
    assert "one sequence of 32,768 tokens (0.9 GiB)" in message
    most = int((24 * 2**30 * 0.9 - 22.5e9) / 28_672)
    assert f"engine.max_model_len = {most}" in message
    shorter = cluster_fleet({"m": on_gpu(folder, engine={"max_model_len": most})})
    assert "tokens of KV cache" in said(check(shorter, settings), Level.NOTE, "models.m.accelerator")


def test_a_fixed_cache_has_to_fit_and_to_hold_a_sequence(settings: Settings, tmp_path: Path):
    folder = checkpoint(tmp_path / "m")
    large = cluster_fleet({"m": on_gpu(folder, engine={"kv_cache_gib": 22})})
    assert "kv_cache_gib = 22 do not fit" in said(check(large, settings), Level.ERROR, "models.m.accelerator")
    small = cluster_fleet({"m": on_gpu(folder, engine={"kv_cache_gib": 0.5})})
    assert "does not hold one sequence" in said(check(small, settings), Level.ERROR, "models.m.accelerator")


def test_parallelism_has_to_be_that_of_the_accelerators(settings: Settings, tmp_path: Path):
    fleet = cluster_fleet({"m": on_gpu(checkpoint(tmp_path / "m"), gpus=2)})
    place = "models.m.engine.tensor_parallel_size"
    assert "1 accelerators share the model and a replica is given 2" in said(check(fleet, settings), Level.ERROR, place)


def test_shares_that_do_not_fit_on_one_accelerator_are_an_error(settings: Settings, tmp_path: Path):
    folder = checkpoint(tmp_path / "m", gigabytes=1)
    fleet = cluster_fleet({"m": on_gpu(folder, gpus=0.7), "d": on_gpu(folder, gpus=0.4, **{"with": "m"})})
    assert "(m: 0.7, d: 0.4)" in said(check(fleet, settings), Level.ERROR, "models.m.accelerator.gpus")


def test_memory_beyond_the_share_is_an_error(settings: Settings, tmp_path: Path):
    folder = checkpoint(tmp_path / "m", gigabytes=1)
    fleet = cluster_fleet({"m": on_gpu(folder, gpus=0.4, engine={"gpu_memory_utilization": 0.6})})
    place = "models.m.engine.gpu_memory_utilization"
    assert "0.6 of an accelerator's memory is more than its share" in said(check(fleet, settings), Level.ERROR, place)


def test_draft_and_target_need_one_vocabulary(settings: Settings, tmp_path: Path):
    mine, same, other = (checkpoint(tmp_path / name, vocabulary=name[0], gigabytes=1) for name in ("aa", "ab", "b"))
    small = {"small": {"model": "lab:small", "roles": ["small"]}}
    target = on_gpu(mine, roles=["target"])
    fits = cluster_fleet({**small, "t": target, "d": on_gpu(same, roles=["draft"])})
    assert not has_errors(check(fits, settings))
    differs = cluster_fleet({**small, "t": target, "d": on_gpu(other, roles=["draft"])})
    assert "not that of its target 't'" in said(check(differs, settings), Level.ERROR, "models.d")


def test_more_replicas_than_nodes_hold_are_named(settings: Settings, tmp_path: Path):
    folder = checkpoint(tmp_path / "m")
    least = cluster_fleet({"m": on_gpu(folder, replicas={"min": 5, "max": 8})})
    message = said(check(least, settings), Level.ERROR, "models.m")
    assert "1 of its 5 replicas find no room: each takes 1 cores and 1 accelerators A10G" in message
    most = cluster_fleet({"m": on_gpu(folder, replicas={"min": 1, "max": 8})})
    assert "at most 4 of 8 replicas" in said(check(most, settings), Level.WARNING, "models.m.replicas")


def test_what_is_there_now_may_be_less_than_what_may_come(settings: Settings, tmp_path: Path):
    fleet = cluster_fleet({"m": on_gpu(checkpoint(tmp_path / "m"), replicas=2)})
    now = ClusterView(address="a", ray_version="2", nodes=(NodeView(name="n", cpus=8, gpus=1, kind="A10G"),))
    findings = check(fleet, settings, cluster=now)
    assert not has_errors(findings)
    notes = [one.message for one in findings if one.level is Level.NOTE and one.place == "models.m"]
    assert notes == ["1 of 2 replicas wait for nodes that are not there yet"]


def test_a_cluster_of_which_nothing_is_known_is_said_to_be_so(settings: Settings):
    findings = check(cluster_fleet({"m": {"model": "lab:small"}}, nodes={}), settings)
    assert "no [cluster.nodes.NAME] says" in said(findings, Level.NOTE, "cluster")


def test_a_missing_or_another_ray_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    fleet = cluster_fleet({"m": {"model": "lab:small"}})
    monkeypatch.setattr("orchestrator.api.fleets.checking.version", lambda _name: "2.41.0")
    assert "Ray 2.41.0 is installed" in said(check(fleet, settings), Level.ERROR, "cluster.ray")


def test_prices_by_the_hour_without_speeds_are_a_warning(settings: Settings, tmp_path: Path):
    fleet = cluster_fleet({"m": on_gpu(checkpoint(tmp_path / "m"), prices={"accelerator_hour_usd": 1})})
    assert "output_tokens_per_s" in said(check(fleet, settings), Level.WARNING, "models.m.prices")


def test_an_accelerator_that_the_embedded_engine_leaves_alone_is_a_warning(settings: Settings):
    entry = {"model": "lab:small", "accelerator": {"gpus": 1, "memory_gib": 24}}
    findings = check(FleetFile.model_validate({"models": {"m": entry}}), settings)
    assert "num_gpu_layers = -1" in said(findings, Level.WARNING, "models.m.engine")
    used = FleetFile.model_validate({"models": {"m": {**entry, "engine": {"num_gpu_layers": -1}}}})
    assert places(check(used, settings), Level.WARNING) == []


def test_models_larger_than_the_machine_do_not_fit(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_machine_bytes", lambda: 1 << 20)
    fleet = FleetFile.model_validate({"models": {"m": {"model": "lab:large"}}})
    assert "this machine has 0.0" in said(check(fleet, settings), Level.ERROR, "models")


def test_the_cache_of_the_embedded_engine_is_counted_as_that_engine_makes_it():
    assert memory._DEFAULT_CELLS == DEFAULT_CELLS


def test_errors_come_first_and_are_counted():
    findings = [Finding(Level.NOTE, "a", "x"), Finding(Level.ERROR, "b", "y"), Finding(Level.WARNING, "c", "z")]
    assert finding_lines(findings) == ["error: b: y", "warning: c: z", "note: a: x"]
    assert verdict(findings) == "does not fit: 1 error"
    assert verdict(findings[2:]) == "fits, with 1 warning"
    assert verdict([]) == "fits"
