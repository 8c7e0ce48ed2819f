"""Plays a search by hand, level by level."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.actions import Expand, Propose, Release, Score, ScoreList
from orchestrator.engine import FinishReason
from orchestrator.testing import PolicyDriver, Sampled

STEP = Sampled(text="a step\n\n", finish=FinishReason.STOP, output_tokens=10)
TOO_LONG = Sampled(text="and so on", finish=FinishReason.LENGTH, output_tokens=5000)


def play_level(driver: PolicyDriver, replies: Sequence[Sampled | str | None], rewards: Sequence[float | None]) -> None:
    """Answers one `Expand` and its `Score`, and the free actions up to the next that costs anything."""
    driver.send(driver.samples(*replies))
    assert isinstance(driver.action, Score)
    driver.send(ScoreList(tuple(rewards)))
    while not driver.is_finished and isinstance(driver.action, Propose | Release):
        driver.send()


def asked(driver: PolicyDriver) -> list[tuple[str, int]]:
    """The pending expansion: the number of each node in order of creation, and how many samples of it."""
    assert isinstance(driver.action, Expand), driver.action
    numbers = [node.id.split(".")[-1] for node in driver.action.nodes]
    return list(zip(numbers, driver.action.counts(), strict=True))
