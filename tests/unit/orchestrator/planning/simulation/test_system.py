"""Pools, routing, controllers and whole studies."""

import math
import random

import numpy as np
import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import FleetFile
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.simulation.arrivals import Given, Mix, Poisson, Traced
from orchestrator.planning.simulation.calibration import LoneJob, calibrated
from orchestrator.planning.simulation.controllers import Controllers, ControllerSpec
from orchestrator.planning.simulation.experiment import Window, saturation_rate, simulate
from orchestrator.planning.simulation.outcome import estimate
from orchestrator.planning.simulation.paper import Paper
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.routing import Affinity, LeastLoaded
from orchestrator.planning.simulation.shapes import CallShape, JobShape, one_call
from orchestrator.planning.simulation.step_time import Accelerator, Plane, StepTime
from orchestrator.planning.simulation.study import enlarged, rate_within, study_loads
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap
from orchestrator.planning.throughput import Deployment, StepTimes
from orchestrator.planning.traces import trace_of
from orchestrator.workers.ray.placing import AffinitySettings, TreePlacing

REPLICA = ReplicaSpec(step=StepTime(overhead_s=0.02), max_sequences=4, kv_tokens=10_000)


def a_system(**fields: object) -> SystemSpec:
    return SystemSpec(pools={"small": PoolSpec(replica=REPLICA, **fields)})  # type: ignore[arg-type]


def test_calls_of_a_tree_stay_on_a_replica_until_it_is_much_busier_than_another():
    rule = Affinity(absolute=2, relative=1.5)
    loads = np.zeros(5, dtype=np.int64)
    home = rule(7, loads)
    assert [rule(7, loads) for _ in range(3)] == [home] * 3
    loads[home] = 2
    assert rule(7, loads) == home
    loads[home] = 3
    moved = rule(7, loads)
    assert moved != home
    assert rule(7, np.zeros(5, dtype=np.int64)) == moved, "it stays where it was moved to"
    rule.forget(7)
    assert rule(7, np.zeros(5, dtype=np.int64)) == home


def test_calls_go_where_the_router_of_the_cluster_sends_them():
    """`TreePlacing` beside its restatement, with names such that both begin at the same replica; no two loads alike."""
    rng = np.random.default_rng(4)
    for tree in range(200):
        restated = Affinity()
        placing = TreePlacing(AffinitySettings(), clock=lambda: 0.0, rng=random.Random(0))
        key = tree.to_bytes(4, "big")
        names = [f"replica-{place}" for place in range(6)]
        home = names.index(placing.home(key, dict.fromkeys(names)))
        mine = restated(tree, np.zeros(6, dtype=np.int64))
        restated.forget(tree)
        names[mine], names[home] = names[home], names[mine]
        for _ in range(12):
            loads = rng.permutation(int(rng.integers(1, 12)) * np.arange(6) + int(rng.integers(0, 5)))
            theirs = placing.choose(key, {name: int(load) for name, load in zip(names, loads, strict=True)})
            assert names[restated(tree, loads)] == theirs.replicas[0]


def test_trees_are_spread_over_the_replicas():
    rule = Affinity()
    loads = np.zeros(16, dtype=np.int64)
    homes = np.bincount([rule(tree, loads) for tree in range(16_000)], minlength=16)
    assert abs(homes - 1000).max() < 5 * math.sqrt(1000)  # five standard deviations


def test_calls_that_find_no_room_wait_in_their_order_and_beyond_that_are_refused():
    heap = EventHeap()
    system = System(a_system(max_ongoing=1, max_queued=1), heap)
    for _ in range(3):
        system.play(one_call([10], prompt_tokens=5))
    assert system.pools["small"].num_queued == 1
    assert system.pools["small"].num_refused == 1
    heap.run()
    assert system.measured.num_failed == 1
    assert len(system.measured.ends_s) == 2
    assert system.measured.ends_s[1] == pytest.approx(2 * system.measured.ends_s[0])


def test_a_job_that_waits_for_a_controller_begins_when_another_one_ends():
    heap = EventHeap()
    spec = SystemSpec(
        pools={"small": PoolSpec(replica=REPLICA)}, controllers=ControllerSpec(max_jobs=1, max_queued=1, job_s=0.5)
    )
    system = System(spec, heap)
    for _ in range(3):
        system.play(one_call([10], prompt_tokens=0))
    heap.run()
    assert system.measured.num_refused == 1
    assert system.measured.ends_s == [pytest.approx(0.7), pytest.approx(1.4)]


def test_a_controller_does_one_thing_at_a_time():
    heap, done = EventHeap(), []
    controllers = Controllers(ControllerSpec(num_controllers=2), heap)
    for controller in (0, 0, 1):
        controllers.work(controller, 1.0, lambda: done.append(heap.now()))
    heap.run()
    assert done == [1.0, 1.0, 2.0]
    assert controllers.busy_s == 3.0


def test_a_shape_that_waits_for_what_never_comes_is_refused():
    for call in (CallShape(after=1), CallShape(parent=0), CallShape(outputs=()), CallShape(outputs=(-1,))):
        with pytest.raises(ValueError, match="call 0"):
            JobShape(policy="p", calls=(call,)).check()
    with pytest.raises(InvalidRequest, match="no shape"):
        JobShape.from_json({"policy": "p", "calls": [["small", 3, -1, 1, 0, [1]]]})


def test_a_trace_brings_the_prompts_and_the_relative_lengths_of_its_requests():
    trace = trace_of([0.0, 1.0, 4.0], [10, 20, 30], [100, 200, 300])
    arrivals = Traced(trace, Mix.of(one_call([8, 4], prompt_tokens=5)), speed=2.0)
    jobs = list(arrivals.jobs(np.random.default_rng(0)))
    assert [job.time_s for job in jobs] == [0.0, 0.5, 2.0]
    assert [job.shape.prompt_tokens for job in jobs] == [10, 20, 30]
    assert [job.shape.calls[0].outputs for job in jobs] == [(4, 2), (8, 4), (12, 6)]
    assert arrivals.faster(2).ends_s == 1.0


def test_the_saturation_rate_is_what_the_system_can_do_and_no_more():
    spec = a_system(num_replicas=2)
    mix = Mix.of(one_call([10, 10], prompt_tokens=5))
    rate = saturation_rate(spec, mix)
    assert rate == pytest.approx(2 * 4 / 2 / (10 * 0.02), rel=0.1)  # slots over sequences and their seconds
    window = Window(duration_s=60.0, warmup_s=10.0, drain_s=0.0)
    above = simulate(spec, Poisson(2 * rate, mix), window)
    assert above.throughput == pytest.approx(rate, rel=0.1)
    assert not above.is_steady
    assert simulate(spec, Poisson(0.6 * rate, mix), window).is_steady


def test_a_rate_within_an_objective_is_below_the_saturation_and_keeps_it():
    spec, mix = a_system(), Mix.of(one_call([20], prompt_tokens=5))
    saturation = saturation_rate(spec, mix)
    window = Window(duration_s=100.0, warmup_s=10.0)
    rate = rate_within(spec, mix, window, {"job_p95_s": 0.6}, most=saturation, seeds=(0, 1))
    assert 0 < rate < saturation
    assert rate_within(spec, mix, window, {"job_p95_s": 0.01}, most=saturation, seeds=(0,)) == 0


def test_a_study_has_a_row_for_each_size_and_load_with_intervals_over_seeds():
    mix = Mix.of(one_call([20, 10], prompt_tokens=5), one_call([5, 5], prompt_tokens=5))
    told: list[float] = []
    saturation, rows = study_loads(
        a_system(usd_per_hour=3.6),
        mix,
        [0.4, 0.7],
        Window(duration_s=40.0, warmup_s=5.0),
        times=[1, 3],
        progress=lambda _, done: told.append(done),
    )
    assert [(row.times, row.load) for row in rows] == [(1, 0.4), (1, 0.7), (3, 0.4), (3, 0.7)]
    assert rows[3].rate == pytest.approx(3 * 0.7 * saturation)
    for row in rows:
        throughput, cost = row.value("throughput"), row.value("usd_per_1000_jobs")
        assert throughput.half_width > 0
        assert cost.mean == pytest.approx(row.times / throughput.mean, rel=0.1)
        assert row.to_json()["pools"]["small"]["busy"][0] <= 1.0
    assert all(0 <= done <= 1.001 for done in told)
    with pytest.raises(InvalidRequest, match="cannot be simulated"):
        enlarged(a_system(), 1_000_000)


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """At 95%, of 400 intervals of 5 normal values each, 380 hold 0; below 365 is four standard deviations off."""
    rng = np.random.default_rng(1)
    held = sum(
        abs(found.mean) <= found.half_width for found in (estimate(rng.normal(size=5).tolist()) for _ in range(400))
    )
    assert held >= 365


def test_constants_are_found_from_jobs_that_had_the_system_to_themselves():
    step = StepTime(overhead_s=0.01, compute=Plane(sequence_s=0.002, prompt_s=0.0002))
    spec = SystemSpec(
        pools={"small": PoolSpec(replica=ReplicaSpec(step=step, max_sequences=8, kv_tokens=100_000), call_s=0.05)}
    )
    rng = np.random.default_rng(2)
    jobs = []
    for number in range(40):
        outputs = tuple(int(tokens) for tokens in rng.integers(5, 80, size=2 ** (number % 4)))
        prompt = int(rng.integers(20, 400))
        heap = EventHeap()
        system = System(spec, heap)
        system.play(one_call(outputs, prompt_tokens=prompt))
        heap.run()
        seconds = float(system.measured.job_s.values[0])
        jobs.append(LoneJob(prompt_tokens=prompt, prefix_tokens=prompt, outputs=outputs, seconds=seconds))
    found = calibrated(jobs, num_slots=8)
    assert found.error < 0.02
    assert found.step.overhead_s == pytest.approx(0.01, rel=0.1)
    assert found.step.compute.sequence_s == pytest.approx(0.002, rel=0.1)
    assert found.call_s == pytest.approx(0.05, rel=0.3)
    with pytest.raises(InvalidRequest, match="at least"):
        calibrated(jobs[:3], num_slots=8)


@pytest.mark.parametrize(("model", "gpu", "gpus"), [("qwen2.5-7b", "A100-80", 1), ("llama-3.1-70b", "H100", 4)])
def test_replicas_on_paper_are_those_of_the_planner(model: str, gpu: str, gpus: int):
    shape, kind = open_shape(model), Catalogue.default().gpu(gpu)
    times = StepTimes(Deployment(shape, kind, gpus))
    replica = Paper(catalogue=Catalogue.default()).replica(shape, kind, gpus)
    assert replica.kv_tokens == pytest.approx(float(times.kv_tokens), rel=1e-3)
    for batch in (1, 16, 200):
        assert replica.step.seconds(batch, batch * 700) == pytest.approx(float(times.decode_s(batch, 700.0)), rel=1e-6)


def test_a_model_that_does_not_fit_or_is_not_known_is_said():
    catalogue = Catalogue.default()
    paper = Paper(catalogue=catalogue)
    with pytest.raises(InvalidRequest, match="does not fit"):
        paper.replica(open_shape("llama-3.1-70b"), catalogue.gpu("L4"), 1)
    fleet = FleetFile.model_validate(
        {"models": {"small": {"model": "vllm:nobody/knows", "accelerator": {"kind": "L4", "gpus": 1}}}}
    )
    with pytest.raises(InvalidRequest, match="--shape small="):
        paper.fleet(fleet)


def test_a_fleet_file_becomes_pools_with_its_limits_and_prices():
    source = open_shape("qwen2.5-7b").source
    fleet = FleetFile.model_validate(
        {
            "models": {
                "worker": {
                    "model": source,
                    "roles": ["small"],
                    "replicas": {"min": 3, "max": 5},
                    "accelerator": {"kind": "A10G", "gpus": 1},
                    "max_ongoing": 7,
                    "engine": {"max_num_seqs": 32},
                    "prices": {"accelerator_hour_usd": 2.0},
                }
            }
        }
    )
    spec = Paper(catalogue=Catalogue.default()).fleet(fleet)
    pool = spec.pools[spec.pool_of("small")]
    assert (pool.num_replicas, pool.max_ongoing, pool.replica.max_sequences) == (3, 7, 32)
    assert spec.usd_per_hour == 6.0
    with pytest.raises(InvalidRequest, match="'verifier'"):
        spec.pool_of("verifier")


def test_other_rules_of_routing_can_be_given():
    spec = a_system(num_replicas=3)
    jobs = Given([0.01 * number for number in range(30)], Mix.of(one_call([10], prompt_tokens=5)))
    outcome = simulate(spec, jobs, Window(duration_s=10.0, warmup_s=0.0), rule=lambda _: LeastLoaded())
    assert outcome.num_jobs == 30
    assert outcome.pools["small"].imbalance < 1.3


def test_an_accelerator_without_speed_is_refused():
    with pytest.raises(InvalidRequest, match="flops_per_s"):
        Accelerator(0.0, 1.0)
