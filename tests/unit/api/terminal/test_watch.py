from __future__ import annotations

from orchestrator import Budget, Event, Orchestrator
from orchestrator.api.terminal.display import line
from orchestrator.api.terminal.watch import JobWatch

NODE = {"id": "0.0", "parent": "0", "text": "7", "finish": "end", "output_tokens": 40, "answer": " 7 "}


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_watcher_ends_with_the_numbers_of_the_result() -> None:
    watch = JobWatch()
    async with Orchestrator("scripted:arithmetic") as ttc:
        result = await ttc.solve(
            "17*23+5-3*4", policy="self_consistency", budget=Budget(max_output_tokens=5000), on_event=watch.take
        )
    assert (watch.answer, watch.confidence, watch.job_id) == (result.text, result.confidence, result.job_id)
    assert (watch.num_finished, watch.num_running) == (8, 0)
    assert watch.output_tokens == result.usage.output_tokens
    assert watch.votes()[0][0] == result.text
    assert sum(count for _, count in watch.votes()) == 8
    (spend,) = watch.spending()
    assert (spend.spent, spend.limit) == (result.usage.output_tokens, 5000)


async def test_a_watcher_of_a_resumed_job_knows_its_past() -> None:
    events: list[Event] = []
    async with Orchestrator("scripted:arithmetic") as ttc:
        await ttc.solve("17*23+5", policy="self_consistency", on_event=events.append)
    watch = JobWatch()
    for event in events:
        if event.seq is not None:
            watch.take(event)
    assert watch.num_finished == 8
    assert watch.answer == "396"


def test_samples_under_way_count_against_the_caps() -> None:
    clock = Hands()
    watch = JobWatch(clock=clock)
    spec = {"budget": {"max_output_tokens": 100, "max_seconds": 60}}
    watch.take(Event("started", {"job_id": "j", "policy": "p", "spec": spec}))
    watch.take(Event("dispatch", {"a": 0, "units": [0, 1]}))
    watch.take(Event("delta", {"node": "0.0", "text": "x", "tokens": 30}))
    clock.now += 2
    assert watch.num_running == 2
    assert [(spend.cap, spend.spent) for spend in watch.spending()] == [("max_output_tokens", 30), ("max_seconds", 2.0)]
    assert watch.tokens_per_s == 15
    assert line(watch) == "0 samples done, 2 running · 30 of 100 output tokens · 2.0 s"
    sample = {"a": 0, "i": 0, "usage": {"output_tokens": 40}, "node": NODE}
    watch.take(Event("sample", sample, 1))
    done = {"a": 0, "t": 1.0, "action": {"type": "Expand"}, "outcome": {"units": [[0, "7"]]}}
    watch.take(Event("done", done, 2))
    assert watch.votes() == [("7", 1)]
    assert watch.output_tokens == 40


def test_missing_scores_are_noted_with_their_reason() -> None:
    watch = JobWatch()
    outcome = {"scores": [0.5, None, None], "problems": ["candidate 1: it raised", "candidate 2: it raised"]}
    watch.take(Event("done", {"a": 1, "t": 0.0, "action": {"type": "Score", "nodes": []}, "outcome": outcome}, 1))
    assert (watch.num_unscored, watch.score_problem) == (2, "candidate 1: it raised")
