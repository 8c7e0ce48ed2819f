"""Worlds for searches over steps: what a model says after a text, and what a verifier thinks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.actions import Compute, Conclude, Embed, Expand, Propose, Release, Score, ScoreList
from orchestrator.engine import FinishReason
from orchestrator.testing import PolicyDriver, Sampled

Said = Mapping[str, Sequence[Sampled]]
"""The next steps after a whole text, in the order in which they are sampled; over and over if there are too few."""


def step(text: str, tokens: int = 10) -> Sampled:
    """A step after which the model would go on."""
    return Sampled(text=text, finish=FinishReason.STOP, output_tokens=tokens)


def end(text: str, answer: str | None) -> Sampled:
    """A last step."""
    return Sampled(answer=answer, text=text)


def explore(
    driver: PolicyDriver,
    said: Said | Callable[[str], Sequence[Sampled]],
    reward: Mapping[str, float | None] | Callable[[str], float | None],
    *,
    num_turns: int = 10_000,
    concluded: Any = None,  # Any: what the driver takes for a sample
) -> PolicyDriver:
    """Answers a policy's actions, at most so many, until it has returned."""
    after = said if callable(said) else said.__getitem__
    worth = reward if callable(reward) else reward.__getitem__
    for _ in range(num_turns):
        if driver.is_finished:
            break
        match driver.action:
            case Expand() as action:
                samples: list[Sampled] = []
                for node, count in zip(action.nodes, action.counts(), strict=True):
                    steps = after(node.trajectory)
                    samples += [steps[index % len(steps)] for index in range(count)]
                driver.send(driver.samples(*samples))
            case Score(nodes):
                driver.send(ScoreList(tuple(worth(node.trajectory) for node in nodes)))
            case Conclude():
                driver.send(driver.sample(concluded))
            case Embed():
                driver.send(driver.embeddings())
            case Compute(function, args):
                driver.send(function(*args))
            case Propose() | Release():
                driver.send(None)
            case other:
                raise AssertionError(f"this world has no answer to {other!r}")
    return driver


def expanded(driver: PolicyDriver) -> list[str]:
    """The texts that were continued, in order."""
    return [node.trajectory for action in driver.actions if isinstance(action, Expand) for node in action.nodes]


def scored(driver: PolicyDriver) -> list[str]:
    """The texts that were scored, in order."""
    return [node.trajectory for action in driver.actions if isinstance(action, Score) for node in action.nodes]


def kept(driver: PolicyDriver) -> list[tuple[set[str], str]]:
    """What releases left of the tree, and why the rest was let go."""
    releases = [action for action in driver.actions if isinstance(action, Release)]
    return [({node.trajectory for node in release.all_but}, release.reason) for release in releases]
