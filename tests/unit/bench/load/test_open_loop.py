"""The open loop, on virtual time: it waits for nothing but the clock, and loses no request from its books."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.exchange import Outcome
from orchestrator.bench.load.measures import Run, counts
from orchestrator.bench.load.open_loop import OpenLoop
from orchestrator.bench.load.target import Part, TargetFailed, TokenCounts
from orchestrator.testing.virtual_time import VirtualClock, run_virtual

HANG = -1.0


@dataclass
class Behaviours:
    """A target that does, in turn, what it is told: seconds until each of two tokens (`HANG`: never), or a failure."""

    script: Sequence[float | str]
    sent: int = 0
    live: int = 0
    peak: int = 0
    closed: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "behaviours"

    def encoded(self, prompt: str, *, max_tokens: int) -> bytes:
        return f"{max_tokens} {prompt}".encode()

    async def exchange(self, body: bytes) -> AsyncGenerator[Part, None]:
        number = self.sent
        self.sent += 1
        self.live += 1
        self.peak = max(self.peak, self.live)
        try:
            what = self.script[number % len(self.script)]
            if isinstance(what, str):
                raise TargetFailed(what, "as told", status=429)
            for _ in range(2):
                await (asyncio.sleep(what) if what >= 0 else asyncio.Event().wait())
                yield Part(has_content=True)
            yield Part(has_content=False, counts=TokenCounts(3, 2))
        finally:
            self.live -= 1
            self.closed.append(number)

    async def aclose(self) -> None:
        """There is nothing to close."""


class OneWord:
    def text(self, index: int, arrival: Arrival) -> str:
        return f"prompt {index}"


def planned(*times: float) -> list[Arrival]:
    return [Arrival(time_s, 10, 5) for time_s in times]


def run(
    target: Behaviours,
    arrivals: Sequence[Arrival],
    *,
    timeout_s: float = 60.0,
    max_in_flight: int = 1000,
    stop_at_s: float | None = None,
) -> OpenLoop:
    loop = OpenLoop(target, OneWord(), clock=VirtualClock(), timeout_s=timeout_s, max_in_flight=max_in_flight)

    async def work() -> None:
        if stop_at_s is not None:
            asyncio.get_running_loop().call_later(stop_at_s, loop.stop)
        await loop.run(arrivals)

    run_virtual(work())
    return loop


def test_a_server_that_hangs_does_not_delay_later_arrivals():
    times = [0.0, 0.5, 0.5, 3.0, 10.0]
    loop = run(Behaviours([HANG]), planned(*times), timeout_s=5.0)
    assert [each.sent_s for each in loop.exchanges] == pytest.approx(times)
    assert [each.end_s for each in loop.exchanges] == pytest.approx([time_s + 5.0 for time_s in times])
    assert {each.error for each in loop.exchanges} == {"timeout"}


def test_times_of_tokens_and_the_end_are_written_down():
    loop = run(Behaviours([0.25]), planned(1.0))
    (only,) = loop.exchanges
    assert (only.outcome, only.status) == (Outcome.COMPLETED, 200)
    assert list(only.chunk_times_s) == pytest.approx([1.25, 1.5])
    assert only.end_s == pytest.approx(1.5)
    assert only.counts == TokenCounts(3, 2)
    assert not only.is_estimated


def test_a_failure_keeps_its_kind_its_status_and_its_words():
    loop = run(Behaviours(["http_429"]), planned(0.0))
    (only,) = loop.exchanges
    assert (only.outcome, only.error, only.status, only.message) == (Outcome.FAILED, "http_429", 429, "as told")


def test_requests_over_the_cap_are_dropped_and_later_ones_are_sent_again():
    target = Behaviours([1.0])
    loop = run(target, planned(0.0, 0.1, 0.2, 5.0), max_in_flight=2)
    assert [each.outcome for each in loop.exchanges] == [
        Outcome.COMPLETED,
        Outcome.COMPLETED,
        Outcome.DROPPED,
        Outcome.COMPLETED,
    ]
    assert target.peak == 2


def test_stopping_hangs_up_and_keeps_what_was_seen():
    target = Behaviours([0.5, HANG, 0.5])
    loop = run(target, planned(0.0, 0.0, 100.0), stop_at_s=10.0)
    assert loop.is_stopped
    assert [each.outcome for each in loop.exchanges] == [Outcome.COMPLETED, Outcome.IN_FLIGHT]
    assert loop.duration_s == pytest.approx(10.0, abs=0.1)
    assert sorted(target.closed) == [0, 1]
    assert (loop.num_in_flight, target.live) == (0, 0)


def test_stopping_before_the_start_and_after_the_end_is_harmless():
    target = Behaviours([0.1])
    loop = OpenLoop(target, OneWord(), clock=VirtualClock(), timeout_s=1.0, max_in_flight=1)
    loop.stop()
    run_virtual(loop.run(planned(0.0)))
    assert loop.exchanges == []
    run(target, planned(0.0)).stop()


def test_a_late_sender_is_seen_in_the_lag():
    """Making the second request takes 2 seconds, in which the loop can do nothing else."""

    class Slow(Behaviours):
        def encoded(self, prompt: str, *, max_tokens: int) -> bytes:
            if prompt == "prompt 1":
                asyncio.get_running_loop()._jumping.now += 2.0  # type: ignore[attr-defined]  # the virtual clock
            return b""

    loop = run(Slow([0.1]), planned(0.0, 0.5, 4.0))
    assert [each.lag_s for each in loop.exchanges] == pytest.approx([0.0, 1.5, 0.0], abs=0.1)


@given(
    times=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=30),
    script=st.lists(st.sampled_from([0.0, 0.3, 4.0, HANG, "http_429", "broken_stream", "http_5xx"]), min_size=1),
    max_in_flight=st.integers(1, 30),
    stop_at_s=st.none() | st.floats(0.0, 30.0),
)
def test_every_planned_request_is_accounted_for(
    times: list[float], script: list[float | str], max_in_flight: int, stop_at_s: float | None
):
    target = Behaviours(script)
    arrivals = planned(*sorted(times))
    loop = run(target, arrivals, timeout_s=6.0, max_in_flight=max_in_flight, stop_at_s=stop_at_s)
    found = counts(Run(arrivals, loop.exchanges, loop.duration_s, 0.0))
    assert found["planned"] == found["sent"] + found["dropped"] + found["not_sent"]
    assert found["sent"] == found["completed"] + found["failed"] + found["in_flight_at_stop"] == target.sent
    assert target.peak <= max_in_flight
    assert target.live == loop.num_in_flight == 0
    if stop_at_s is None:
        assert (found["not_sent"], found["in_flight_at_stop"]) == (0, 0)
    lags = [each.lag_s for each in loop.exchanges if each.lag_s is not None]
    assert lags == pytest.approx([0.0] * len(lags), abs=1e-6)
