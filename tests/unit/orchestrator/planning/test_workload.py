"""Workloads keep their rates when they are put into buckets, and know the longest request of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.planning.traces import trace_of
from orchestrator.planning.workload import Lengths, Objectives, Workload, described, of_trace

LENGTHS = st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 50_000)), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(LENGTHS)
def test_buckets_keep_rates_means_and_the_longest(sizes: list[tuple[int, int]]) -> None:
    inputs, outputs = np.array(sizes, dtype=np.float64).T
    rows = Workload.of_lengths(inputs, outputs, rate=7.0)
    merged = rows.merged()
    assert merged.rate == pytest.approx(7.0)
    assert (merged.rates * merged.input_tokens).sum() == pytest.approx((rows.rates * inputs).sum())
    assert (merged.rates * merged.output_tokens).sum() == pytest.approx((rows.rates * outputs).sum())
    assert merged.longest_total.max() == (inputs + outputs).max()
    assert len(set(merged.labels)) == len(merged)


def test_merging_twice_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    rows = Workload.of_lengths(rng.integers(1, 9000, 500) * 1.0, rng.integers(1, 900, 500) * 1.0, rate=2.0)
    once = rows.merged()
    assert once.merged().rates == pytest.approx(once.rates)


def test_labels_name_the_bucket() -> None:
    load = Workload.of_lengths(np.array([24.0, 25.0, 200_000.0]), np.array([1.0, 99.0, 50_000.0]), rate=1.0)
    assert load.labels == ("in 1-24, out 1-24", "in 25-99, out 25-99", "in 128000+, out 32000+")


def test_described_lengths_have_the_mean_and_the_spread_they_say() -> None:
    load = described(Lengths(500, 0.8), Lengths(300, 0.4), rate=4.0)
    assert load.rate == pytest.approx(4.0)
    assert load.input_tokens.mean() == pytest.approx(500, rel=0.02)
    assert load.input_tokens.std() == pytest.approx(400, rel=0.05)
    assert abs(np.corrcoef(load.input_tokens, load.output_tokens)[0, 1]) < 0.05


def test_the_rate_of_a_trace_is_that_of_its_busy_windows() -> None:
    trace = trace_of([*range(60), *(60 + at / 10 for at in range(600)), 120.0], [10] * 661, [10] * 661)
    assert of_trace(trace, busy=1.0).rate == pytest.approx(10.0)
    assert of_trace(trace, busy=0.0).rate == pytest.approx(1.0)
    assert of_trace(trace, rate=3.0, scale=2.0).rate == pytest.approx(6.0)


def test_prefix_hits_are_a_share_of_what_the_trace_shares() -> None:
    trace = trace_of([0, 1], [100, 100], [10, 10])
    shared = trace.shared_tokens.copy()
    shared[1] = 80
    load = of_trace(type(trace)(trace.arrivals_s, trace.input_tokens, trace.output_tokens, shared), prefix_hits=0.5)
    assert load.cached_tokens.tolist() == [0, 40]
    assert load.longest_input.tolist() == [100, 60]


def test_a_trace_that_says_nothing_about_a_rate_asks_for_one() -> None:
    trace = trace_of([5], [10], [10])
    with pytest.raises(InvalidRequest, match="--rate"):
        of_trace(trace)
    assert of_trace(trace, rate=2.0).rate == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("busy", 1.1),
        ("busy", float("nan")),
        ("prefix_hits", -0.1),
        ("scale", 0.0),
        ("window_s", 0.0),
        ("window_s", 1e-9),
    ],
)
def test_arguments_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        of_trace(trace_of([0, 1], [10, 10], [10, 10]), **{field: value})
    assert caught.value.field == field.removesuffix("_s")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_above_0(rate: float) -> None:
    with pytest.raises(InvalidRequest, match="rate"):
        described(Lengths(10), Lengths(10), rate=rate)


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "nan", "mean=5,cv=11", "cv=1", "mean=1,mean=2", "5,5", "1e5", "9" * 50]
)
def test_lengths_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="mean=512"):
        Lengths.parse(text, field="input-tokens")


def test_lengths_are_read() -> None:
    assert Lengths.parse("512", field="x") == Lengths(512)
    assert Lengths.parse("mean=512,cv=0.6", field="x") == Lengths(512, 0.6)


def test_requests_beyond_a_context_can_be_left_out() -> None:
    load = Workload.of_lengths(np.array([10.0, 1000.0]), np.array([10.0, 10.0]), rate=2.0)
    kept = load.within(500)
    assert (len(kept), kept.rate) == (1, 1.0)
    with pytest.raises(InvalidRequest, match="all requests"):
        load.within(5)


@pytest.mark.parametrize("values", [{"ttft_s": 0}, {"tpot_s": -1}, {"ttft_s": float("nan")}, {"quantile": 1.0}])
def test_objectives_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        Objectives(**values)
