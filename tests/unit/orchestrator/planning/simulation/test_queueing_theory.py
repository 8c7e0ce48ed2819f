"""Reduced to what queueing theory knows, the simulation agrees with it.

Each test runs independent replications and holds the closed form against the mean's interval of confidence at 99.9%
(Student's t), so that a right simulation fails once in a thousand seeds; the seeds are fixed.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import t

from orchestrator.planning.simulation.arrivals import Mix, Poisson
from orchestrator.planning.simulation.experiment import Window, simulate
from orchestrator.planning.simulation.outcome import Outcome
from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.shapes import one_call
from orchestrator.planning.simulation.step_time import StepTime
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap

STEP_S = 0.001
REPLICATIONS = 10


def replicated(spec: SystemSpec, mix: Mix, rate: float, *, duration_s: float = 100.0) -> list[Outcome]:
    window = Window(duration_s=duration_s, warmup_s=duration_s / 10)
    return [simulate(spec, Poisson(rate, mix), window, seed=seed) for seed in range(REPLICATIONS)]


def assert_mean_is(values: list[float], expected: float, *, discretisation: float) -> None:
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(t.ppf(0.9995, len(values) - 1)) * spread / math.sqrt(len(values))
    assert half < 0.25 * expected, "too few replications to say anything"
    assert abs(mean - expected) <= half + discretisation, f"{mean} +- {half} against {expected}"


def server(num_servers: int) -> SystemSpec:
    """Sequences are customers, slots are servers, and a step is a moment of service."""
    replica = ReplicaSpec(step=StepTime(overhead_s=STEP_S), max_sequences=num_servers, kv_tokens=1 << 40)
    return SystemSpec(pools={"small": PoolSpec(replica=replica)})


def erlang_c(num_servers: int, load: float) -> float:
    """Chance that a customer waits."""
    terms = [load**k / math.factorial(k) for k in range(num_servers)]
    last = load**num_servers / math.factorial(num_servers) * num_servers / (num_servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("num_servers", "utilisation", "duration_s"), [(1, 0.6, 200.0), (4, 0.8, 40.0)])
def test_slots_with_exponential_replies_are_an_m_m_c_queue(num_servers: int, utilisation: float, duration_s: float):
    lengths = np.random.default_rng(7).exponential(50.0, 20_000)
    mix = Mix.of(*(one_call([max(1, round(tokens))], prompt_tokens=0) for tokens in lengths))
    service_s = mix.output_tokens * STEP_S
    rate = utilisation * num_servers / service_s
    outcomes = replicated(server(num_servers), mix, rate, duration_s=duration_s)
    wait_s = erlang_c(num_servers, utilisation * num_servers) * service_s / (num_servers * (1 - utilisation))
    # A reply begins with the next step of the batch: up to one step later.
    assert_mean_is([one.job_mean_s for one in outcomes], wait_s + service_s, discretisation=STEP_S)


@pytest.mark.parametrize("utilisation", [0.5, 0.8])
def test_one_slot_with_equal_replies_is_an_m_d_1_queue(utilisation: float):
    service_s = 0.05
    mix = Mix.of(one_call([round(service_s / STEP_S)], prompt_tokens=0))
    outcomes = replicated(server(1), mix, utilisation / service_s)
    wait_s = utilisation * service_s / (2 * (1 - utilisation))  # Pollaczek and Khinchine
    assert_mean_is([one.job_mean_s for one in outcomes], wait_s + service_s, discretisation=STEP_S / 10)


def test_the_utilisation_of_a_queue_is_its_load():
    service_s = 0.05
    mix = Mix.of(one_call([round(service_s / STEP_S)], prompt_tokens=0))
    outcomes = replicated(server(1), mix, 0.7 / service_s)
    assert_mean_is([one.pools["small"].busy for one in outcomes], 0.7, discretisation=0.001)


def test_the_integral_of_the_jobs_in_the_system_is_the_sum_of_their_times_in_it():
    """Little's law, which holds of any stretch that begins and ends empty, exactly."""
    heap = EventHeap()
    replica = ReplicaSpec(step=StepTime(overhead_s=0.01), max_sequences=4, kv_tokens=300)
    system = System(SystemSpec(pools={"small": PoolSpec(replica=replica, num_replicas=2)}), heap)
    rng = np.random.default_rng(11)
    integral = last = 0.0
    present = 0

    def change(by: int) -> None:
        nonlocal integral, last, present
        integral += present * (heap.now() - last)
        last = heap.now()
        present += by

    def arrive(tokens: int) -> None:
        change(1)
        system.play(one_call([tokens, tokens], prompt_tokens=20), on_end=lambda: change(-1))

    for at_s in np.cumsum(rng.exponential(0.1, 300)):
        heap.at(float(at_s), partial(arrive, int(rng.integers(1, 30))))
    heap.run()
    assert present == 0
    assert integral == pytest.approx(system.measured.job_seconds, rel=1e-9)


@pytest.mark.parametrize("routing", ["affinity", "two_choices", "least_loaded"])
def test_more_replicas_are_not_slower_in_the_mean(routing: str):
    """Paired by seed: the mean difference of job times is not above 0 at 99.9%."""
    rng = np.random.default_rng(5)
    mix = Mix.of(*(one_call(rng.integers(5, 60, 4).tolist(), prompt_tokens=40) for _ in range(100)))
    replica = ReplicaSpec(step=StepTime(overhead_s=0.02), max_sequences=8, kv_tokens=5000)
    means = []
    for number in (2, 3, 5):
        spec = SystemSpec(pools={"small": PoolSpec(replica=replica, num_replicas=number, routing=routing)})
        means.append([one.job_mean_s for one in replicated(spec, mix, 4.0, duration_s=30.0)])
    for fewer, more in pairwise(means):
        differences = np.subtract(more, fewer)
        half = float(t.ppf(0.999, REPLICATIONS - 1)) * differences.std(ddof=1) / math.sqrt(REPLICATIONS)
        assert differences.mean() <= half


def test_a_run_is_the_same_again_with_its_seed_and_another_one_with_another():
    mix = Mix.of(*(one_call([tokens, 5], prompt_tokens=30) for tokens in range(1, 40)))
    replica = ReplicaSpec(step=StepTime(overhead_s=0.02), max_sequences=3, kv_tokens=400)
    spec = SystemSpec(pools={"small": PoolSpec(replica=replica, num_replicas=3, routing="two_choices")})
    window = Window(duration_s=60.0, warmup_s=5.0)

    def run(seed: int) -> dict[str, object]:
        found = simulate(spec, Poisson(5.0, mix), window, seed=seed).to_json()
        return {name: value for name, value in found.items() if name != "wall_s"}

    assert run(1) == run(1)
    assert run(1) != run(2)
