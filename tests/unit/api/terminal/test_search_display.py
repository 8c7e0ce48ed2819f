from __future__ import annotations

import io

from rich.console import Console

from orchestrator import Budget, Event, Orchestrator
from orchestrator.api.terminal.display import line, picture
from orchestrator.api.terminal.watch import JobWatch

from ..job_rows import HOSTILE, REASON, search

SMALL = {"width": 4, "max_step_tokens": 4}


def by_length(text: str) -> float:
    """A score that tells steps apart."""
    return 0.1 + len(text) % 7 / 10


def shown(watch: JobWatch, *, width: int = 100) -> str:
    """What a terminal of that width would show."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(picture(watch))
    return stream.getvalue()


def watched(num_nodes: int, *, text: str = "") -> JobWatch:
    watch = JobWatch()
    for row in search(num_nodes, width=4, text=text)[1]:
        watch.take(Event.of(row))
    return watch


def test_a_search_shows_depth_width_choice_and_kv() -> None:
    watch = watched(100)
    frame = watch.growth.frame()
    choice = watch.growth.last_choice
    assert choice is not None
    assert choice.num_given_up > 0
    words = [
        f"depth {frame.depth}, width {frame.num_open}, {frame.num_finished} finished",
        f"last kept {choice.num_kept}, gave up {choice.num_given_up} ({REASON})",
        f"{watch.growth.unique_kv_tokens:,} of {watch.growth.logical_kv_tokens:,}",
        "saved by sharing",
    ]
    for part in words:
        assert part in line(watch)
        assert part in shown(watch)
    assert "best so far: none yet" in shown(watch)


def test_an_action_under_way_is_named_while_nothing_is_sampled() -> None:
    watch = watched(100)
    assert "Score" not in shown(watch)
    action = {"type": "Score", "nodes": ["0.0"], "verifier": f"judge{HOSTILE}"}
    watch.take(Event("begin", {"a": 99, "action": action}, 999))
    assert "Score 1 by judge" in shown(watch)
    assert "\u202e" not in shown(watch)


async def test_the_live_kv_ends_as_the_ledger_says() -> None:
    watch = JobWatch()
    async with Orchestrator("scripted:arithmetic") as ttc:
        result = await ttc.solve(
            "17*23+5-3*4",
            policy="rebase",
            params=SMALL,
            verifier=by_length,
            budget=Budget(max_output_tokens=3000),
            on_event=watch.take,
        )
    assert watch.growth.is_search
    live = (watch.growth.unique_kv_tokens, watch.growth.logical_kv_tokens)
    assert live == (result.usage.unique_kv_tokens, result.usage.logical_kv_tokens)
    assert watch.answer == result.text


def test_independent_samples_are_shown_without_a_tree() -> None:
    watch = JobWatch()
    node = {"id": "0.0", "parent": "0", "text": "7", "finish": "end", "output_tokens": 4, "answer": "7"}
    watch.take(Event("sample", {"a": 0, "i": 0, "usage": {"output_tokens": 4}, "node": node}, 1))
    assert "depth" not in line(watch) + shown(watch)
    assert "KV" not in line(watch) + shown(watch)


def test_steps_on_the_way_are_not_samples_without_an_answer() -> None:
    watch = JobWatch()
    for unit, finish in enumerate(("stop", "end", "length")):
        node = {"id": f"0.{unit}", "parent": "0", "text": "", "finish": finish, "output_tokens": 4}
        watch.take(Event("sample", {"a": 0, "i": unit, "usage": {"output_tokens": 4}, "node": node}, unit))
    assert watch.num_silent == 2


def test_hostile_reasons_and_answers_cannot_steer_a_terminal() -> None:
    watch = watched(60, text=f"\x1b[2J{HOSTILE}")
    watch.answer = "\x1b[2J7"
    for text in (line(watch), shown(watch)):
        assert "\x1b[2J" not in text
        assert "\u202e" not in text
        assert "\x00" not in text


def test_a_narrow_terminal_shows_it_too() -> None:
    assert max(map(len, shown(watched(100), width=60).splitlines())) <= 60
