"""Real policies under the real controller on a simulated fleet, and the shapes of their jobs."""

import pytest

from orchestrator.engine import Engine, RewardsSteps, Tokenizes
from orchestrator.errors import InvalidRequest
from orchestrator.planning.simulation.controllers import ControllerSpec
from orchestrator.planning.simulation.live import LiveRun, Task, record_shapes, run_live
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.script import Solutions
from orchestrator.planning.simulation.shapes import JobShape
from orchestrator.planning.simulation.step_time import Plane, StepTime
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap
from orchestrator.planning.workload import Lengths

STEP = StepTime(overhead_s=0.01, compute=Plane(sequence_s=0.0005, prompt_s=0.00005))
REPLICA = ReplicaSpec(step=STEP, max_sequences=16, kv_tokens=20_000)
SHORT = {"small": Solutions(lengths=Lengths(40.0, 0.5), steps=3.0)}
ARRIVALS = [0.0, 0.1, 0.3, 1.0, 1.1]


def a_fleet(*, controllers: ControllerSpec | None = None, **fields: float) -> SystemSpec:
    pool = PoolSpec(replica=REPLICA, num_replicas=2, **fields)  # type: ignore[arg-type]
    pools = {"small": pool, "verifier": PoolSpec(replica=REPLICA)}
    return SystemSpec(pools=pools, controllers=controllers or ControllerSpec())


def played(spec: SystemSpec, run: LiveRun) -> System:
    heap = EventHeap()
    system = System(spec, heap)
    for at_s, shape in zip(ARRIVALS, run.shapes, strict=True):
        heap.at(at_s, lambda shape=shape: system.play(shape))
    heap.run()
    return system


def served(system: System) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, pool in system.pools.items():
        counts = [replica.counts for replica in pool.replicas]
        found[name] = tuple(sum(getattr(each, field) for each in counts) for field in ("written_tokens", "read_tokens"))
    return found


@pytest.mark.parametrize(
    ("policy", "params", "verifier"),
    [
        ("self_consistency", {"n": 4}, None),
        ("adaptive_consistency", {}, None),
        ("best_of_n", {"n": 4}, "process_reward"),
        ("beam_search", {"width": 4}, "process_reward"),
        ("rebase", {"width": 4}, "process_reward"),
    ],
)
def test_shapes_take_as_long_as_the_jobs_that_they_were_recorded_from(policy, params, verifier):
    task = Task(policy=policy, params=params, verifier=verifier, prompt_tokens=60, solutions=SHORT)
    spec = a_fleet()
    run = run_live(spec, task, ARRIVALS)
    assert not run.failures
    assert len(run.shapes) == len(ARRIVALS)
    for shape in run.shapes:
        shape.check()
        assert JobShape.from_json(shape.to_json()) == shape
    again = played(spec, run)
    live, replayed = sorted(run.system.measured.job_s.values), sorted(again.measured.job_s.values)
    assert replayed == pytest.approx(live, rel=0.03)
    written = {name: tokens for name, (tokens, _) in served(run.system).items()}
    assert {name: tokens for name, (tokens, _) in served(again).items()} == written
    for name, (_, read) in served(run.system).items():
        assert served(again)[name][1] == pytest.approx(read, rel=0.1), name


def test_a_search_finds_its_prefixes_in_the_cache():
    task = Task(
        policy="beam_search", params={"width": 4}, verifier="process_reward", prompt_tokens=200, solutions=SHORT
    )
    run = run_live(a_fleet(), task, [0.0])
    counts = [replica.counts for replica in run.system.pools["small"].replicas]
    assert sum(each.read_tokens for each in counts) < sum(each.cached_tokens for each in counts)


def test_a_run_in_virtual_time_is_the_same_again():
    task = Task(policy="adaptive_consistency", prompt_tokens=60, solutions=SHORT)
    first, second = (run_live(a_fleet(), task, ARRIVALS, seed=4) for _ in range(2))
    assert first.shapes == second.shapes
    assert list(first.system.measured.job_s.values) == list(second.system.measured.job_s.values)


def test_controllers_and_the_way_to_the_fleet_take_their_time():
    task = Task(policy="self_consistency", params={"n": 2}, prompt_tokens=60, solutions=SHORT)
    fast = run_live(a_fleet(), task, [0.0]).end_s
    controllers = ControllerSpec(call_s=0.5, sequence_s=0.25)
    slow = run_live(a_fleet(controllers=controllers, call_s=1.0, reply_s=2.0), task, [0.0]).end_s
    assert slow == pytest.approx(fast + 0.5 + 0.25 + 1.0 + 2.0, abs=0.3)


def test_a_fleet_that_is_full_fails_the_jobs_that_find_no_room():
    pool = PoolSpec(replica=REPLICA, max_ongoing=1, max_queued=0)
    task = Task(policy="self_consistency", params={"n": 2}, prompt_tokens=60, solutions=SHORT)
    run = run_live(SystemSpec(pools={"small": pool}), task, [0.0, 0.05, 0.1])
    assert run.failures
    assert all("full" in message for message in run.failures)
    assert len(run.failures) < 3


def test_a_policy_that_does_not_exist_or_a_missing_role_is_said_before_anything_runs():
    with pytest.raises(Exception, match="no_such_policy"):
        record_shapes(a_fleet(), Task(policy="no_such_policy"), num_jobs=1)
    with pytest.raises(InvalidRequest, match="'small'"):
        SystemSpec(pools={"other": PoolSpec(replica=REPLICA)}).pool_of("small")


def test_the_simulated_engine_is_an_engine():
    from orchestrator.planning.simulation.engine import SimulatedEngine

    for protocol in (Engine, Tokenizes, RewardsSteps):
        assert issubclass(SimulatedEngine, protocol)
