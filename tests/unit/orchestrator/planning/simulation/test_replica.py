"""A replica serves every token once, keeps within its memory, and takes the time its steps take."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.simulation.pool import PoolSpec
from orchestrator.planning.simulation.replica import Replica
from orchestrator.planning.simulation.replica_parts import ReplicaSpec
from orchestrator.planning.simulation.shapes import CallShape, JobShape, one_call
from orchestrator.planning.simulation.step_time import Plane, StepTime
from orchestrator.planning.simulation.system import System, SystemSpec
from orchestrator.planning.simulation.timeline import EventHeap
from orchestrator.planning.simulation.work import Call

STEP = StepTime(overhead_s=0.01, compute=Plane(sequence_s=0.001, prompt_s=0.0001), memory=Plane(context_s=1e-6))


def a_spec(*, num_replicas: int = 1, step: StepTime = STEP, **fields: int) -> SystemSpec:
    pool = PoolSpec(replica=ReplicaSpec(step=step, **fields), num_replicas=num_replicas)
    return SystemSpec(pools={"small": pool})


def played(spec: SystemSpec, jobs: Sequence[tuple[float, JobShape]], *, seed: int = 0) -> System:
    """The system after all jobs have ended."""
    heap = EventHeap()
    system = System(spec, heap, seed=seed)
    for time_s, shape in jobs:
        heap.at(time_s, lambda shape=shape: system.play(shape))
    heap.run()
    return system


def random_shape(rng: np.random.Generator, *, longest: int = 40) -> JobShape:
    """A job of up to five calls that wait for, and continue, each other."""
    calls: list[CallShape] = []
    done = 0
    for _ in range(int(rng.integers(1, 6))):
        outputs = tuple(int(tokens) for tokens in rng.integers(0, longest, size=int(rng.integers(1, 5))))
        parent = int(rng.integers(-1, done)) if done else -1
        prompt = int(rng.integers(1, longest)) if parent < 0 else int(rng.integers(0, 5))
        after = int(rng.integers(0, done + 1))
        calls.append(CallShape(after=after, parent=parent, prompt_tokens=prompt, outputs=outputs))
        done += len(outputs)
    return JobShape(policy="random", calls=tuple(calls))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    num_replicas=st.integers(1, 3),
    max_sequences=st.integers(1, 6),
    kv_tokens=st.integers(450, 900),
    chunk=st.sampled_from([8, 64, 2048]),
    shares_reads=st.booleans(),
)
def test_every_token_that_is_asked_for_is_written_once_within_the_memory(
    seed, num_replicas, max_sequences, kv_tokens, chunk, shares_reads
):
    rng = np.random.default_rng(seed)
    jobs = [(float(time_s), random_shape(rng)) for time_s in np.cumsum(rng.exponential(0.05, 20))]
    spec = a_spec(
        num_replicas=num_replicas,
        max_sequences=max_sequences,
        kv_tokens=kv_tokens,
        max_step_tokens=chunk,
        shares_reads=shares_reads,
    )
    system = played(spec, jobs, seed=seed)
    assert system.measured.num_jobs == len(jobs)
    assert system.measured.num_failed == system.num_unfinished == 0
    asked = sum(shape.output_tokens for _, shape in jobs)
    replicas = system.pools["small"].replicas
    assert sum(replica.counts.written_tokens for replica in replicas) == asked == system.measured.output_tokens
    for replica in replicas:
        replica.cache.check_integrity(0)
        assert replica.cache.num_used == replica.cache.num_loose, "nothing is pinned when nothing is done"
        assert replica.cache.peak <= kv_tokens
        assert replica.num_batched == replica.num_waiting == 0


def test_memory_that_runs_out_makes_the_newest_give_way_and_read_again():
    shape = one_call([60] * 8, prompt_tokens=20)
    found = played(a_spec(kv_tokens=300, max_sequences=8), [(0.0, shape)]).pools["small"].replicas[0].counts
    assert found.preemptions > 0
    assert found.recomputed_tokens > 0
    assert found.written_tokens == 480


def test_a_prompt_of_several_samples_is_read_once_and_what_they_continue_is_not_read_again():
    shape = one_call([10, 10, 10], prompt_tokens=100)
    assert played(a_spec(), [(0.0, shape)]).pools["small"].replicas[0].counts.read_tokens == 100
    chain = JobShape(
        policy="chain",
        calls=(
            CallShape(prompt_tokens=100, outputs=(10, 10)),
            CallShape(after=2, parent=1, outputs=(5, 5)),
            CallShape(after=4, parent=2, prompt_tokens=7, outputs=(5,)),
        ),
    )
    found = played(a_spec(), [(0.0, chain)]).pools["small"].replicas[0].counts
    assert found.read_tokens == 107
    assert found.cached_tokens == 110 + 115


def test_a_lone_sequence_takes_the_time_of_its_prompt_and_of_its_steps():
    system = played(a_spec(max_step_tokens=64), [(0.0, one_call([5], prompt_tokens=100))])
    reading_s = 2 * STEP.overhead_s + 100 * 0.0001
    writing_s = sum(STEP.seconds(1, 100 + written) for written in range(1, 5))
    assert system.measured.job_s.values[0] == pytest.approx(reading_s + writing_s)
    assert system.measured.ttft_s.values[0] == pytest.approx(reading_s)
    assert system.measured.tpot_s.values[0] == pytest.approx(writing_s / 4)


def test_a_call_joins_the_batch_when_the_step_under_way_is_over():
    jobs = [(0.0, one_call([10], prompt_tokens=0)), (2.5, one_call([3], prompt_tokens=0))]
    system = played(a_spec(step=StepTime(overhead_s=1.0)), jobs)
    assert system.measured.ends_s == [pytest.approx(6.0), pytest.approx(10.0)]


def test_samples_beyond_the_slots_run_in_waves():
    system = played(
        a_spec(step=StepTime(overhead_s=1.0), max_sequences=2), [(0.0, one_call([4, 2, 3], prompt_tokens=0))]
    )
    assert system.measured.ends_s == [pytest.approx(5.0)]


def test_a_cancelled_sequence_ends_with_the_step_under_way_and_says_how_far_it_got():
    heap, ended = EventHeap(), []
    replica = Replica(ReplicaSpec(step=StepTime(overhead_s=1.0)), heap, ended.append)
    call = Call("small", 1, (), ended.append)
    one, other = call.add(10), call.add(20)
    replica.submit(call)
    heap.at(4.5, lambda: replica.cancel(one))
    heap.run()
    assert [(sequence.num_written, sequence.end_s) for sequence in ended] == [(5, 5.0), (20, 20.0)]
    assert other.has_ended
    assert replica.cache.num_used == 0


def test_cancelling_what_waits_ends_it_at_once():
    heap, ended = EventHeap(), []
    replica = Replica(ReplicaSpec(step=StepTime(overhead_s=1.0), max_sequences=1), heap, ended.append)
    call = Call("small", 1, (), ended.append)
    call.add(3)
    waiting = call.add(3)
    replica.submit(call)
    heap.at(0.5, lambda: replica.cancel(waiting))
    heap.run()
    assert [sequence.index for sequence in ended] == [1, 0]
    assert waiting.num_written == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_cancelling_at_any_moment_leaves_the_books_in_order(seed):
    rng = np.random.default_rng(seed)
    heap, ended = EventHeap(), []
    replica = Replica(ReplicaSpec(step=STEP, max_sequences=3, kv_tokens=400, max_step_tokens=16), heap, ended.append)
    for number in range(8):
        call = Call("small", number, ((number, 30),), ended.append, num_prefix_tokens=30)
        for _ in range(3):
            sequence = call.add(int(rng.integers(0, 50)))
            if rng.random() < 0.6:
                at_s = 1.0 + float(rng.random() * 3)
                heap.at(at_s, lambda sequence=sequence: replica.cancel(sequence))
        heap.at(float(rng.random()), lambda call=call: replica.submit(call))
    heap.run()
    assert len(ended) == len(set(map(id, ended))) == 24
    assert all(sequence.num_written <= sequence.output_tokens for sequence in ended)
    replica.cache.check_integrity(0)
    assert replica.cache.num_used == replica.cache.num_loose


def test_a_call_that_can_never_fit_is_refused():
    system = played(a_spec(kv_tokens=100), [(0.0, one_call([90], prompt_tokens=30))])
    assert system.measured.num_failed == 1
    assert system.pools["small"].num_refused == 1


def test_steps_of_a_batch_take_what_its_single_steps_take_together():
    step = StepTime(
        overhead_s=0.003,
        compute=Plane(sequence_s=1e-4, context_s=1e-8, prompt_s=2e-5, pair_s=1e-9),
        memory=Plane(fixed_s=0.002, context_s=3e-7),
        by_batch=((1, 0.0), (8, 0.001), (16, 0.004)),
    )
    for num_sequences in (1, 5, 12, 40):
        for context in (0, 1000, 20_000):
            singly = sum(step.seconds(num_sequences, context + turn * num_sequences, 7, 90.0) for turn in range(300))
            assert step.run(300, num_sequences, context, 7, 90.0) == pytest.approx(singly)
