from __future__ import annotations

import io

from rich.console import Console

from orchestrator.api.story import JobStory
from orchestrator.api.terminal.story_text import print_story

from ..job_rows import HOSTILE, REASON, search


def shown(story: JobStory) -> str:
    stream = io.StringIO()
    print_story(story, is_full=False, console=Console(file=stream, width=250, color_system=None))
    return stream.getvalue()


def test_the_tree_as_text_says_what_was_given_up_and_why() -> None:
    story = JobStory(*search(100, width=4, text=""))
    num_given_up = sum(branch.given_up is not None for branch in story.growth.branches.values())
    assert num_given_up > 0
    assert shown(story).count(f"given up: {REASON}") == num_given_up


def test_hostile_reasons_cannot_steer_the_terminal() -> None:
    text = shown(JobStory(*search(100, width=4, text=f"\x1b[2J{HOSTILE}")))
    assert REASON in text
    assert not {"\x1b", "\u202e", "\x00"} & set(text)
