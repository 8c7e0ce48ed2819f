"""Capacity: as much as the objectives allow and no more."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.planning.capacity import Limit, capacity
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.throughput import Assumptions, Deployment, StepTimes
from orchestrator.planning.workload import Objectives, Workload

GPUS = Catalogue.default().gpus


def load(*sizes: tuple[float, float]) -> Workload:
    inputs, outputs = np.array(sizes, dtype=np.float64).T
    return Workload.of_lengths(inputs, outputs, rate=1.0)


def times(gpu: str = "H100", gpus: int = 1, shape: str = "llama-3.1-8b", **assumed: float) -> StepTimes:
    assumptions = replace(Assumptions(), **assumed)
    return StepTimes(Deployment(open_shape(shape), GPUS[gpu], gpus), assumptions)


def latencies(steps: StepTimes, size: tuple[float, float], rate: float) -> tuple[float, float]:
    """TTFT and TPOT at a rate, by Little's law solved step by step instead of by bisection."""
    inputs, outputs = size
    prefill, further = float(steps.prefill_s(inputs)), outputs - 1
    batch = 0.0
    for _ in range(20_000):
        decode = float(steps.decode_s(batch, inputs + outputs / 2))
        new = rate * further * decode / (1 - rate * prefill)
        if abs(new - batch) < 1e-12:
            break
        batch = new
    decode = float(steps.decode_s(batch, inputs + outputs / 2))
    service = prefill + inputs / 2048 * decode
    busy = rate * service
    wait = max(0.0, service / (2 * (1 - busy)) * np.log(busy / 0.1))
    longest = max(prefill, float(steps.decode_s(1.0, 0.0)))
    return wait + longest + np.ceil(inputs / 2048) * decode, decode + batch * prefill / further


@pytest.mark.parametrize("size", [(100, 500), (3000, 30), (1000, 1000), (8000, 200)])
@pytest.mark.parametrize(("ttft", "tpot"), [(2.0, 0.03), (0.8, 0.2)])
def test_at_its_capacity_a_replica_just_keeps_the_objectives(
    size: tuple[float, float], ttft: float, tpot: float
) -> None:
    steps = times()
    found = capacity(steps, load(size), Objectives(ttft_s=ttft, tpot_s=tpot))
    rate = float(found.rates[0])
    at_ttft, at_tpot = latencies(steps, size, rate * 0.999)
    assert at_ttft <= ttft
    assert at_tpot <= tpot
    if found.limits[0] is Limit.TTFT:
        assert latencies(steps, size, rate * 1.01)[0] > ttft
    elif found.limits[0] is Limit.TPOT:
        assert latencies(steps, size, rate * 1.01)[1] > tpot
    else:
        assert found.batch[0] == pytest.approx(min(256, steps.kv_tokens / sum(size)), rel=1e-6)


SIZES = st.tuples(st.integers(1, 30_000), st.integers(1, 8000))
PLACES = st.tuples(st.sampled_from(["L4", "A10G", "L40S", "A100-80", "H100", "B200"]), st.sampled_from([1, 2, 8]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIZES, PLACES, st.floats(0.05, 20), st.floats(0.005, 0.5))
def test_looser_objectives_never_lower_the_capacity(
    size: tuple[int, int], place: tuple[str, int], ttft: float, tpot: float
) -> None:
    steps = times(*place)
    tight = capacity(steps, load(size), Objectives(ttft_s=ttft, tpot_s=tpot)).rates[0]
    for loose in (Objectives(ttft_s=2 * ttft, tpot_s=tpot), Objectives(ttft_s=ttft, tpot_s=2 * tpot)):
        assert capacity(steps, load(size), loose).rates[0] >= tight * (1 - 1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIZES, PLACES)
def test_longer_requests_never_raise_the_capacity(size: tuple[int, int], place: tuple[str, int]) -> None:
    steps, goals = times(*place), Objectives(ttft_s=5.0, tpot_s=0.1)
    inputs, outputs = size
    assume(outputs > 1)
    base = capacity(steps, load(size), goals).rates[0]
    assert capacity(steps, load((inputs * 2, outputs)), goals).rates[0] <= base * (1 + 1e-6)
    assert capacity(steps, load((inputs, outputs * 2)), goals).rates[0] <= base * (1 + 1e-6)


def test_what_does_not_fit_into_memory_is_not_served() -> None:
    found = capacity(times("L4", shape="llama-3.1-70b"), load((10, 10)), Objectives())
    assert (found.rates[0], found.limits[0]) == (0, Limit.MEMORY)
    assert np.isinf(found.best_ttft_s[0])
    one_too_long = capacity(times("L4"), load((200_000, 10)), Objectives(ttft_s=1e5))
    assert (one_too_long.rates[0], one_too_long.limits[0]) == (0, Limit.MEMORY)


def test_an_objective_that_an_idle_replica_misses_is_named_with_what_it_keeps() -> None:
    steps = times("L4")
    slow = capacity(steps, load((8000, 100)), Objectives(ttft_s=0.5))
    assert (slow.rates[0], slow.limits[0]) == (0, Limit.TTFT)
    nearest = float(slow.best_ttft_s[0])
    assert capacity(steps, load((8000, 100)), Objectives(ttft_s=nearest * 1.01)).rates[0] > 0
    slow = capacity(steps, load((100, 100)), Objectives(tpot_s=0.01))
    assert (slow.rates[0], slow.limits[0]) == (0, Limit.TPOT)
    assert capacity(steps, load((100, 100)), Objectives(tpot_s=float(slow.best_tpot_s[0]) * 1.01)).rates[0] > 0


def test_scoring_is_limited_by_computing_and_waiting_alone() -> None:
    steps = times()
    found = capacity(steps, load((1000, 1)), Objectives(ttft_s=100.0))
    service = float(steps.prefill_s(1000)) + 1000 / 2048 * steps.assumed.step_s
    assert found.rates[0] == pytest.approx(1 / service, rel=0.01)
    assert capacity(steps, load((1000, 1)), Objectives(ttft_s=0.1)).limits[0] is Limit.TTFT


def test_cached_prompts_cost_no_computing() -> None:
    plain = load((4000, 10))
    cached = replace(plain, cached_tokens=np.array([3900.0]), longest_input=np.array([100.0]))
    goals = Objectives(ttft_s=1.0, tpot_s=0.1)
    assert capacity(times(), cached, goals).rates[0] > 5 * capacity(times(), plain, goals).rates[0]
