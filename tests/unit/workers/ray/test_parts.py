"""What callers and replicas send each other, what errors of Ray mean, and what a deployment is made of."""

from __future__ import annotations

import pickle
import time
import warnings
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.engine import GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import ContextOverflow, EngineFailed, InvalidRequest
from orchestrator.fleet_file import FleetFile
from orchestrator.workers.ray.totals import Totals
from orchestrator.workers.ray.values import Due, Order, answer, error_packed, packed, result_packed, unpacked

pytest.importorskip("ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    from orchestrator.workers.ray.deployment import application_name, gpus_of, host_of, options, seats
    from orchestrator.workers.ray.failures import engine_failed, is_full
    from orchestrator.workers.ray.routing import ReplicaGone


def fleet(**models: dict[str, Any]) -> FleetFile:
    return FleetFile.model_validate({"models": models, "cluster": {"ray": "auto"}})


# Values


def test_time_goes_on_while_a_message_waits_to_be_sent():
    due = Due(0.05)
    time.sleep(0.06)
    assert pickle.loads(pickle.dumps(due)).in_s == 0
    assert pickle.loads(pickle.dumps(Due(None))).in_s is None
    assert 0 < pickle.loads(pickle.dumps(Due(60))).in_s <= 60


def test_orders_and_answers_travel():
    request = GenerateRequest(request_id="r", prompt=Prompt((Message("user", "é"),)), samples=(SampleSpec(1, 2),))
    order = Order("caller/1", request, 0.02)
    assert unpacked(packed(order, what="request")) == order
    assert answer(result_packed({"a": 1})) == {"a": 1}
    with pytest.raises(ContextOverflow) as caught:
        answer(error_packed(ContextOverflow(model="m", prompt_tokens=9, context_length=8), model="m"))
    assert caught.value.context_length == 8


def test_what_cannot_travel_is_refused_with_the_way_out():
    with pytest.raises(InvalidRequest, match="top of modules") as caught:
        packed(lambda: None, what="monitors")
    assert caught.value.field == "monitors"


def test_what_an_engine_should_not_raise_becomes_a_failure_without_a_stack_trace():
    with pytest.raises(EngineFailed, match="surprise") as caught:
        answer(error_packed(ValueError("surprise"), model="m"))
    assert not caught.value.is_retryable


# Errors of Ray


@pytest.mark.parametrize(
    ("error", "words", "is_retryable"),
    [
        (ActorDiedError(), "has died", True),
        (ActorUnavailableError("away", b"x" * 16), "has died", True),
        (ReplicaGone("r"), "has died", True),
        (BackPressureError(num_queued_requests=3, max_queued_requests=2), "max_queued", True),
        (DeploymentUnavailableError.__new__(DeploymentUnavailableError), "fleet status", True),
        (TimeoutError(), "nobody answers", True),
        (ConnectionError("gone"), "the cluster does not answer: gone", True),
        (RayTaskError("call", "Traceback\n  File x\nValueError: odd", ValueError("odd")), "ValueError: odd", False),
        (RuntimeError("loop"), "Ray failed: loop", True),
    ],
)
def test_errors_of_ray_say_what_happened_and_whether_to_try_again(error, words, is_retryable):
    failed = engine_failed(error, model="small")
    assert isinstance(failed, EngineFailed)
    assert words in failed.message
    assert "\n" not in failed.message
    assert (failed.model, failed.is_retryable) == ("small", is_retryable)
    assert is_full(error) == isinstance(error, BackPressureError)


def test_our_own_errors_stay_as_they_are():
    error = InvalidRequest("no", field="prompt")
    assert engine_failed(error, model="small") is error


# Health of many replicas


def test_totals_go_on_over_the_end_of_replicas_and_ready_is_who_has_one_that_is():
    totals = Totals()
    assert not totals.sum().is_ready
    one = EngineHealth(requests=3, output_tokens=10, live_sequences=2, kv_cells=8)
    totals.saw({"a": one, "b": replace(one, is_ready=False, detail="loading")})
    both = totals.sum()
    assert both.is_shared
    assert (both.is_ready, both.detail, both.requests, both.live_sequences, both.kv_cells) == (
        True,
        "loading",
        6,
        4,
        16,
    )
    totals.saw({"b": None})
    left = totals.sum()
    assert (left.requests, left.output_tokens, left.live_sequences) == (6, 20, 2)
    assert "do not say" in left.detail
    totals.saw({})
    assert (totals.sum().requests, totals.sum().live_sequences, totals.sum().is_ready) == (6, 0, False)


# Deployments


def test_an_application_is_named_for_its_model_and_fleet():
    assert application_name("small", namespace="ttc") == "ttc.small"
    placed = fleet(target={"model": "scripted:arithmetic"}, draft={"model": "scripted:babble", "with": "target"})
    assert host_of(placed, "draft") == host_of(placed, "target") == "target"
    assert [seat.name for seat in seats(placed, "target", openers={"draft": "m:f"})] == ["target", "draft"]
    assert [seat.opener for seat in seats(placed, "target", openers={"draft": "m:f"})] == ["", "m:f"]


def test_a_replica_gets_what_its_models_need_together():
    share = {"kind": "A10G", "gpus": 0.7}
    placed = fleet(
        target={"model": "scripted:a", "accelerator": share, "cpus": 2, "max_ongoing": 32},
        draft={"model": "scripted:b", "accelerator": {"gpus": 0.3}, "cpus": 1, "max_ongoing": 16, "with": "target"},
    )
    given = options(placed, "target", runtime_env={"env_vars": {"A": "1"}})
    assert given["ray_actor_options"] == {
        "num_cpus": 3,
        "num_gpus": 1.0,
        "accelerator_type": "A10G",
        "runtime_env": {"env_vars": {"A": "1"}},
    }
    assert (given["max_ongoing_requests"], given["max_queued_requests"], given["num_replicas"]) == (48, -1, 1)


def test_models_that_are_placed_together_share_one_accelerator():
    placed = fleet(
        target={"model": "scripted:a", "accelerator": {"gpus": 1}},
        draft={"model": "scripted:b", "accelerator": {"gpus": 0.3}, "with": "target"},
    )
    with pytest.raises(InvalidRequest, match=r"target: 1, draft: 0\.3"):
        gpus_of(placed, "target")
    alone = fleet(
        target={"model": "scripted:a", "accelerator": {"gpus": 2}},
        draft={"model": "scripted:b", "with": "target"},
    )
    assert gpus_of(alone, "target") == 2
    mixed = fleet(
        target={"model": "scripted:a", "accelerator": {"gpus": 0.5, "kind": "L4"}},
        draft={"model": "scripted:b", "accelerator": {"gpus": 0.5, "kind": "H100"}, "with": "target"},
    )
    with pytest.raises(InvalidRequest, match="H100 and L4"):
        options(mixed, "target")


def test_replicas_scale_between_their_bounds():
    scaled = fleet(
        small={
            "model": "scripted:a",
            "replicas": {"min": 0, "max": 4},
            "max_ongoing": 20,
            "max_queued": 7,
            "autoscale": {"upscale_delay_s": 1},
        }
    )
    given = options(scaled, "small")
    assert "num_replicas" not in given
    assert given["max_queued_requests"] == 7
    assert given["autoscaling_config"] == {
        "min_replicas": 0,
        "max_replicas": 4,
        "initial_replicas": 1,
        "target_ongoing_requests": 10,
        "upscale_delay_s": 1,
        "downscale_delay_s": 600,
        "look_back_period_s": 30,
    }


def test_a_share_of_an_accelerator_is_a_share_of_its_memory():
    shared = fleet(small={"model": "vllm:Q/W", "accelerator": {"gpus": 0.4}})
    assert seats(shared, "small", openers={})[0].entry["engine"] == {"gpu_memory_utilization": 0.38}
    named = fleet(small={"model": "vllm:Q/W", "accelerator": {"gpus": 0.4}, "engine": {"gpu_memory_utilization": 0.3}})
    assert seats(named, "small", openers={})[0].entry["engine"] == {"gpu_memory_utilization": 0.3}
    whole = fleet(small={"model": "vllm:Q/W", "accelerator": {"gpus": 1}})
    assert seats(whole, "small", openers={})[0].entry["engine"] == {}
