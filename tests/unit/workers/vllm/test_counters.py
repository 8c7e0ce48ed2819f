"""Statistics of vLLM's scheduler, added up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from orchestrator.workers.vllm.counters import SchedulerCounters


def scheduler(*, queries: int = 0, hits: int = 0, usage: float = 0.0, guesses: tuple[int, int, int] | None = None):
    stats = (
        SimpleNamespace(num_drafts=guesses[0], num_draft_tokens=guesses[1], num_accepted_tokens=guesses[2])
        if guesses
        else None
    )
    return SimpleNamespace(
        num_running_reqs=2,
        num_waiting_reqs=1,
        kv_cache_usage=usage,
        prefix_cache_stats=SimpleNamespace(queries=queries, hits=hits),
        spec_decoding_stats=stats,
    )


def iteration(tokens: int, preempted: int = 0):
    return SimpleNamespace(num_generation_tokens=tokens, num_preempted_reqs=preempted)


def test_steps_add_up_and_what_is_now_is_the_last():
    counters = SchedulerCounters()
    counters.take(scheduler(queries=10, hits=4, usage=0.5, guesses=(1, 3, 2)), iteration(3, 1), now=1.0)
    counters.take(scheduler(queries=5, usage=0.2, guesses=(1, 3, 0)), iteration(1), now=1.5)
    counters.take(None, None, now=1.6)
    assert (counters.steps, counters.prefix_queries, counters.prefix_hits) == (2, 15, 4)
    assert (counters.kv_usage, counters.peak_kv_usage) == (0.2, 0.5)
    assert (counters.generated_tokens, counters.preemptions) == (4, 1)
    assert (counters.running, counters.waiting) == (2, 1)
    assert counters.tokens_per_draft() == pytest.approx(2.0)


def test_the_rate_is_of_busy_seconds_of_the_last_ten():
    counters = SchedulerCounters()
    for now, tokens in ((0.0, 100), (0.5, 10), (1.0, 10), (60.0, 50), (60.5, 20)):
        counters.take(scheduler(), iteration(tokens), now=now)
    assert counters.tokens_per_s(60.5) == pytest.approx(40.0), "the gap before 60 s was not spent on its 50 tokens"
    assert counters.tokens_per_s(90.0) == 0.0


def test_without_guesses_there_is_no_mean():
    assert SchedulerCounters().tokens_per_draft() is None
