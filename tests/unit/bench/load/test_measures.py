"""Figures of a run, on cases that are worked out by hand."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.exchange import Exchange, Outcome
from orchestrator.bench.load.measures import Run, distribution, measured, nice_width_s, windows
from orchestrator.bench.load.slo import Slo
from orchestrator.bench.load.target import TokenCounts
from orchestrator.errors import InvalidRequest


def exchange(
    at_s: float,
    chunks: list[float],
    *,
    lag_s: float = 0.0,
    end_s: float | None = None,
    tokens: int | None = None,
    outcome: Outcome = Outcome.COMPLETED,
    error: str | None = None,
) -> Exchange:
    """A request due at ``at_s`` whose chunks arrived at the given times; it ends with the last of them."""
    made = Exchange(0, Arrival(at_s, 10, 20), outcome, sent_s=at_s + lag_s, error=error)
    made.chunk_times_s = array("d", chunks)
    made.end_s = end_s if end_s is not None else (chunks[-1] if chunks else at_s + lag_s)
    made.counts = None if tokens is None else TokenCounts(7, tokens, 2)
    return made


def run_of(*exchanges: Exchange, duration_s: float = 10.0, cpu_s: float = 1.0, not_due: int = 0) -> Run:
    arrivals = [each.arrival for each in exchanges] + [Arrival(99.0, 1, 1)] * not_due
    return Run(arrivals, exchanges, duration_s, cpu_s)


def figures(run: Run, slo: str = "e2e=1000") -> dict:
    return measured(run, slo=Slo.parse(slo))


def test_the_latencies_of_one_request_are_those_of_its_definition():
    """Sent at 1.1; chunks at 1.5, 1.7, 2.3; the server counts 5 tokens."""
    one = exchange(1.0, [1.5, 1.7, 2.3], lag_s=0.1, end_s=2.4, tokens=5)
    assert one.lag_s == pytest.approx(0.1)
    assert one.ttft_s == pytest.approx(0.4)
    assert one.tpot_s == pytest.approx((2.3 - 1.5) / 4)
    assert one.e2e_s == pytest.approx(1.3)
    found = figures(run_of(one))["latency_s"]["inter_chunk"]
    assert (found["count"], found["max"]) == (2, pytest.approx(0.6))


def test_tokens_are_counted_by_chunks_where_the_server_tells_no_count_and_flagged():
    counted, estimated = exchange(0.0, [0.1, 0.2], tokens=6), exchange(0.0, [0.1, 0.2, 0.3])
    tokens = figures(run_of(counted, estimated))["tokens"]
    assert tokens == {
        "output": 9,
        "output_wanted_at_most": 40,
        "output_of_failed": 0,
        "prompt": 7,
        "prompt_wanted": 10,
        "prompt_cached": 2,
        "num_requests_estimated": 1,
    }
    assert estimated.tpot_s == pytest.approx(0.1)


def test_percentiles_are_linear_between_neighbours():
    """Of 0, 1, ..., 100 the p-th percentile is p; of 1, 2 the 90th is 1.9."""
    found = distribution(float(value) for value in range(101))
    assert [found[name] for name in ("count", "mean", "p50", "p90", "p95", "p99", "max")] == pytest.approx(
        [101, 50, 50, 90, 95, 99, 100]
    )
    assert distribution([2.0, None, 1.0])["p90"] == pytest.approx(1.9)
    assert distribution([None]) == {"count": 0}


def test_throughput_is_of_completed_requests_over_the_whole_run():
    run = run_of(
        exchange(0.0, [0.5, 1.0]),
        exchange(4.0, [5.0, 6.0, 7.0]),
        exchange(4.5, [5.0], outcome=Outcome.FAILED, error="broken_stream"),
        duration_s=20.0,
    )
    found = figures(run)
    assert found["throughput"]["completed_requests_per_s"] == pytest.approx(2 / 20)
    assert found["throughput"]["output_tokens_per_s"] == pytest.approx(5 / 20)
    assert found["throughput"]["planned_requests_per_s"] == pytest.approx(3 / 4.5)
    assert found["tokens"]["output_of_failed"] == 1


def test_goodput_counts_requests_that_keep_all_objectives():
    """Of 6 judged, one keeps all; failed and dropped ones have missed; those in flight at the stop are not judged."""
    dropped = Exchange(0, Arrival(0.0, 1, 1), Outcome.DROPPED)
    run = run_of(
        exchange(0.0, [0.4, 0.5, 0.6]),
        exchange(0.0, [0.6, 0.7, 0.8]),  # first token too late
        exchange(0.0, [0.4, 0.8, 1.2]),  # 0.4 s per token
        exchange(0.0, [0.5, 0.5], end_s=9.0),  # ends too late
        exchange(0.0, [0.1], outcome=Outcome.FAILED, error="http_429"),
        dropped,
        exchange(0.0, [0.1], outcome=Outcome.IN_FLIGHT),
        duration_s=4.0,
    )
    found = figures(run, "ttft=0.5,tpot=0.3,e2e=2")["goodput"]
    assert (found["num_good"], found["num_judged"]) == (1, 6)
    assert found["share"] == pytest.approx(1 / 6)
    assert found["requests_per_s"] == pytest.approx(0.25)
    assert found["missed_by_completed"] == {"ttft": 1, "tpot": 1, "e2e": 1}


def test_a_reply_without_tokens_misses_ttft_and_one_of_a_single_token_keeps_tpot():
    slo = Slo.parse("ttft=5,tpot=0.001")
    assert slo.missed(exchange(0.0, [], end_s=0.1)) == ["ttft"]
    assert slo.missed(exchange(0.0, [1.0])) == []


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=", "ttft=0", "ttft=-1", "ttft=nan", "ttft=inf", "p99=1", "e2e=1,e2e=2"]
)
def test_objectives_that_make_no_sense_are_refused(text: str):
    with pytest.raises(InvalidRequest, match=r"ttft=0\.5,tpot=0\.05,e2e=10"):
        Slo.parse(text)


def test_errors_are_told_by_kind_with_what_the_first_one_said():
    failures = [exchange(0.0, [], outcome=Outcome.FAILED, error=kind) for kind in ("timeout", "http_429", "http_429")]
    failures[1].message, failures[2].message = "slow down", "really"
    found = figures(run_of(*failures))["errors"]
    assert list(found) == ["http_429", "timeout"]
    assert found["http_429"] == {"count": 2, "first_message": "slow down"}


def test_the_most_requests_in_flight_are_counted_at_their_sending():
    """In flight: [0, 4), [1, 3), [3, 5): the third begins as the second ends."""
    run = run_of(exchange(0.0, [4.0]), exchange(1.0, [3.0]), exchange(3.0, [5.0]))
    assert figures(run)["counts"]["peak_in_flight"] == 2


def test_windows_put_sending_where_it_was_and_the_end_where_it_was():
    run = run_of(
        exchange(0.5, [0.7, 1.5]),
        exchange(2.0, [2.1, 2.2]),
        exchange(2.5, [2.6], outcome=Outcome.FAILED, error="timeout"),
        duration_s=2.7,
    )
    first, second, third = windows(run, 1.0)
    assert [each["sent"] for each in (first, second, third)] == [1, 0, 2]
    assert [each["completed"] for each in (first, second, third)] == [0, 1, 1]
    assert [each["failed"] for each in (first, second, third)] == [0, 0, 1]
    assert [each["in_flight_at_end"] for each in (first, second, third)] == [1, 0, 0]
    assert [each["output_tokens"] for each in (first, second, third)] == [0, 2, 2]
    assert first["ttft_s"]["p50"] == pytest.approx(0.2)
    assert second["ttft_s"] == {"count": 0}
    assert third["to_s"] == pytest.approx(2.7)


@given(st.floats(0.0, 1e6))
def test_a_run_has_at_most_twenty_windows_of_its_own_choice(duration_s: float):
    assert nice_width_s(duration_s) >= 1
    assert duration_s / nice_width_s(duration_s) <= 20.0000001


def test_late_sends_and_a_busy_sender_are_warned_of():
    late = figures(run_of(exchange(0.0, [1.0], lag_s=0.2)))["sender"]
    assert "sent late (p99 200 ms" in late["warnings"][0]
    busy = figures(run_of(exchange(0.0, [1.0]), duration_s=10.0, cpu_s=9.5))["sender"]
    assert "95% of a core" in busy["warnings"][0]
    assert figures(run_of(exchange(0.0, [1.0], lag_s=0.001)))["sender"]["warnings"] == []


def test_a_run_of_nothing_has_figures_too():
    found = figures(Run([Arrival(5.0, 1, 1)], [], 0.0, 0.0))
    assert found["counts"]["not_sent"] == 1
    assert found["goodput"]["share"] == 0.0
