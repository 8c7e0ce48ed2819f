"""What each level of a search has cost, and what came of its nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.api.growth import Branch, Growth, kv_tokens
from orchestrator.store import JournalRow

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """All nodes of one depth.

    Attributes:
        level: Nodes above each of them; 1 for the first steps.
        num_nodes: How many there are.
        num_continued: Those that something continues.
        num_finished: Those that ended a trajectory well.
        num_given_up: Those that a `Release` left out, and nothing continues.
        output_tokens: Sampled for them.
        prompt_tokens: Read for them and not cached.
        verifier_tokens: Spent on scoring them.
        wall_s: Time spent on them. An action on several levels is shared out by the number of nodes; one on none
            (`Compute`, `Propose`, ...) belongs to the level of the action before it.
        kept_tokens: KV tokens of the trajectories that were continued from here, each prefix once.
        unshared_tokens: The same if each of these trajectories had a copy of its own.
    """

    level: int
    num_nodes: int
    num_continued: int
    num_finished: int
    num_given_up: int
    output_tokens: int
    prompt_tokens: int
    verifier_tokens: int
    wall_s: float
    kept_tokens: int
    unshared_tokens: int

    def to_json(self) -> Json:
        """JSON values."""
        return asdict(self)


class LevelCosts:
    """Adds up tokens and time by level, row by row.

    Args:
        growth: The tree; each row is given to it first, then to `take`.
    """

    def __init__(self, growth: Growth) -> None:
        self._growth = growth
        self._prompt_tokens: Counter[int] = Counter()
        self._verifier_tokens: dict[int, float] = {}
        self._wall_s: dict[int, float] = {}
        self._touched: Counter[int] = Counter({1: 1})  # by the action under way, else by the one before it
        self._is_fresh = True  # nothing has been touched by the action under way
        self._now_s = 0.0

    def take(self, row: JournalRow) -> None:
        """Notes what a row says was spent."""
        data = row.data
        if row.kind == "sample" and "node" in data:
            level = self._growth.branches[data["node"]["id"]].level
            self._touch([level])
            usage = data["usage"]
            self._prompt_tokens[level] += usage.get("prompt_tokens", 0) - usage.get("cached_prompt_tokens", 0)
        elif row.kind in {"done", "final"}:
            if data.get("action", {}).get("type") in {"Score", "Embed"}:
                branches = self._growth.branches
                self._touch(max(1, branches[name].level) for name in data["action"]["nodes"] if name in branches)
            self._share(self._verifier_tokens, sum(data.get("usage", {}).get("verifier_tokens", {}).values()))
            now_s = max(self._now_s, data.get("t", 0.0))
            self._share(self._wall_s, now_s - self._now_s)
            self._now_s, self._is_fresh = now_s, True

    def _touch(self, levels: Iterable[int]) -> None:
        touched = Counter(levels)
        if touched:
            self._touched = touched if self._is_fresh else self._touched + touched
            self._is_fresh = False

    def _share(self, totals: dict[int, float], amount: float) -> None:
        num_touched = self._touched.total()
        for level, count in self._touched.items():
            totals[level] = totals.get(level, 0.0) + amount * count / num_touched

    def levels(self) -> list[Level]:
        """From the first steps to the deepest."""
        by_level: dict[int, list[Branch]] = {}
        for branch in self._growth.branches.values():
            if branch.parent is not None:
                by_level.setdefault(branch.level, []).append(branch)
        return [self._level(level, by_level[level]) for level in sorted(by_level)]

    def _level(self, level: int, branches: list[Branch]) -> Level:
        continued = [branch for branch in branches if branch.num_children]
        kept_tokens, unshared_tokens = kv_tokens(continued)
        return Level(
            level=level,
            num_nodes=len(branches),
            num_continued=len(continued),
            num_finished=sum(branch.is_leaf and branch.node.is_final for branch in branches),
            num_given_up=sum(branch.is_leaf and branch.given_up is not None for branch in branches),
            output_tokens=sum(branch.node.output_tokens for branch in branches),
            prompt_tokens=self._prompt_tokens[level],
            verifier_tokens=round(self._verifier_tokens.get(level, 0.0)),
            wall_s=self._wall_s.get(level, 0.0),
            kept_tokens=kept_tokens,
            unshared_tokens=unshared_tokens,
        )
