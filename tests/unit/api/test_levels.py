from __future__ import annotations

import pytest

from orchestrator.api.story import JobStory

from .job_rows import Journal, finished, search


def of_two_levels() -> JobStory:
    """Two first steps; the second is given up; the first is continued twice, and one continuation ends."""
    journal = Journal()

    def sample(name: str, parent: str, *, finish: str, tokens: int, **usage: int) -> None:
        node = {"id": name, "parent": parent, "text": name, "finish": finish, "output_tokens": tokens}
        action, unit = map(int, name.split("."))
        journal.add("sample", a=action, i=unit, node=node, usage={"output_tokens": tokens, **usage})

    def done(position: int, action: dict[str, object], *, at_s: float, verifier_tokens: int = 0) -> None:
        usage = {"usage": {"verifier_tokens": {"prm": verifier_tokens}}} if verifier_tokens else {}
        journal.add("done", a=position, action=action, outcome={}, t=at_s, **usage)

    sample("0.0", "0", finish="stop", tokens=10, prompt_tokens=100)
    sample("0.1", "0", finish="stop", tokens=20)
    done(0, {"type": "Expand", "nodes": ["0"], "num_samples": [2], "model": "small"}, at_s=1.0)
    done(1, {"type": "Score", "nodes": ["0.0", "0.1"], "verifier": "judge"}, at_s=1.5, verifier_tokens=60)
    done(2, {"type": "Compute", "fn": "math:fsum"}, at_s=1.75)
    done(3, {"type": "Release", "all_but": ["0.0"], "reason": "too low"}, at_s=1.75)
    sample("4.0", "0.0", finish="stop", tokens=1, prompt_tokens=110, cached_prompt_tokens=109)
    sample("4.1", "0.0", finish="end", tokens=2)
    done(4, {"type": "Expand", "nodes": ["0.0"], "num_samples": [2], "model": "small"}, at_s=3.75)
    done(5, {"type": "Score", "nodes": ["4.0", "4.1", "0.0"], "verifier": "judge"}, at_s=4.05, verifier_tokens=9)
    journal.add("final", result={}, t=5.0)
    return JobStory(finished("", None, 4), journal.rows)


def test_levels_say_what_became_of_their_nodes_and_what_they_cost() -> None:
    first, second = of_two_levels().levels()
    assert (first.level, first.num_nodes, first.num_continued, first.num_given_up, first.num_finished) == (
        1,
        2,
        1,
        1,
        0,
    )
    assert (second.level, second.num_nodes, second.num_continued, second.num_given_up) == (2, 2, 0, 0)
    assert (first.num_finished, second.num_finished) == (0, 1)
    assert (first.output_tokens, second.output_tokens) == (30, 3)
    assert (first.prompt_tokens, second.prompt_tokens) == (100, 1)
    assert (first.verifier_tokens, second.verifier_tokens) == (60 + 3, 6)  # a third of the last scoring was on level 1
    assert (first.kept_tokens, first.unshared_tokens) == (110, 110)
    assert (second.kept_tokens, second.unshared_tokens) == (0, 0)


def test_all_time_is_some_levels() -> None:
    first, second = of_two_levels().levels()
    # the computation belongs to the level that was scored before it, and so does what came after the last action
    assert first.wall_s == pytest.approx(1.75 + 0.1 + 0.95 / 3)
    assert second.wall_s == pytest.approx(2.0 + 0.2 + 0.95 * 2 / 3)
    assert first.wall_s + second.wall_s == pytest.approx(5.0)


def test_levels_add_up_to_the_tree() -> None:
    story = JobStory(*search(400, text=""))
    levels = story.levels()
    nodes = [node for node in story.tree if node.parent is not None]
    assert [level.level for level in levels] == list(range(1, story.frames[-1].depth + 1))
    assert sum(level.num_nodes for level in levels) == len(nodes)
    assert sum(level.output_tokens for level in levels) == sum(node.output_tokens for node in nodes)
    assert sum(level.wall_s for level in levels) == pytest.approx(max(row.data.get("t", 0.0) for row in story.rows))
    assert sum(level.num_given_up for level in levels) == story.frames[-1].num_given_up
    assert all(level.kept_tokens <= level.unshared_tokens for level in levels)


def test_a_job_without_nodes_has_no_levels() -> None:
    assert JobStory(finished("", None, 0), []).levels() == []
