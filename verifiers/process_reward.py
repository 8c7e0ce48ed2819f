"""Scores a solution by a process reward model: one reward for each step, put together to one score.

What one call has learned, later calls of the same job know, where the meter has a memory: in a tree search, whose
levels score trajectories that share their first steps, each step is judged once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import ClassVar

from orchestrator.engine import Prompt
from orchestrator.step_scores import STEP_DELIMITER, Aggregation, aggregated, split_steps
from orchestrator.verifier import Candidate, Meter, Remembers

_LOG = logging.getLogger(__name__)

_MOST_REMEMBERED = 100_000
"""Steps; a job that has judged more begins to remember anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReward:
    """The reward that a process reward model gives the steps of a solution, split at blank lines.

    Attributes:
        model: Role or name of the reward model.
        aggregation: How the steps' rewards make one score: the last one's, the smallest, their mean or their product.
        delimiter: What ends a step.
    """

    source: ClassVar[str] = (
        "Lightman et al. 2023, arXiv:2305.20050; Wang et al. 2024, arXiv:2312.08935 (Math-Shepherd); "
        "last step: Snell et al. 2024, arXiv:2408.03314"
    )
    needs: ClassVar[tuple[str, ...]] = ("a process reward model in the role 'verifier'",)

    model: str = "verifier"
    aggregation: Aggregation = "last"
    delimiter: str = STEP_DELIMITER

    @property
    def name(self) -> str:
        """The name its scores are kept under."""
        return "process_reward"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        """A score for each candidate; None for one without a step, or that was not paid for. Each step pays once."""
        distinct: dict[tuple[bytes, ...], _Solution] = {}
        solutions: list[_Solution] = []
        for candidate in candidates:
            solution = _Solution.of(candidate, self.delimiter)
            solutions.append(distinct.setdefault(solution.prefixes, solution))
        rewards = self._remembered(meter)
        await self._judge([solution for solution in distinct.values() if solution.steps], rewards, meter)
        return [self._score(rewards.of(solution)) for solution in solutions]

    async def _judge(self, solutions: Iterable[_Solution], rewards: _StepRewards, meter: Meter) -> None:
        """Has the model judge the steps that no reward is known of.

        Solutions that begin with the same unknown step take turns, so that the first one's pass judges it for all. If
        a pass fails, the others no longer wait.
        """
        waiting = [solution for solution in solutions if rewards.num_known(solution) < len(solution.steps)]
        has_failed = False
        while waiting:
            turn, waiting = (waiting, []) if has_failed else _first_of_each_branch(waiting, rewards)
            num_known = [rewards.num_known(solution) for solution in turn]
            results = await meter.reward_steps(
                [solution.prompt for solution in turn],
                [solution.steps for solution in turn],
                num_known=num_known,
                model=self.model,
            )
            for solution, start, result in zip(turn, num_known, results, strict=True):
                if result is None or not rewards.learn(solution.prefixes[start:], result.rewards):
                    has_failed = True
            waiting = [solution for solution in waiting if rewards.num_known(solution) < len(solution.steps)]

    def _score(self, rewards: Sequence[float] | None) -> float | None:
        return aggregated(rewards, self.aggregation) if rewards else None

    def _remembered(self, meter: Meter) -> _StepRewards:
        if not isinstance(meter, Remembers):
            return _StepRewards()
        key = f"{self.name}:{self.model}"
        remembered = meter.memory.get(key)
        if not isinstance(remembered, _StepRewards) or remembered.num_steps > _MOST_REMEMBERED:
            remembered = meter.memory[key] = _StepRewards()
        return remembered


@dataclass(frozen=True, slots=True)
class _Solution:
    """A text to be scored.

    Attributes:
        prompt: The conversation that it replies to.
        steps: Texts that make it up.
        prefixes: For each step, a digest of the conversation and all steps up to it; a step that went on after a token
            limit had cut it is another step.
    """

    prompt: Prompt
    steps: tuple[str, ...]
    prefixes: tuple[bytes, ...]

    @classmethod
    def of(cls, candidate: Candidate, delimiter: str) -> _Solution:
        """The steps of a candidate's text."""
        prompt = Prompt(candidate.prompt.messages)
        steps = tuple(split_steps(candidate.text, delimiter))
        digest = blake2b(digest_size=16)
        for text in [part for message in prompt.messages for part in (message.role, message.content)]:
            digest.update(_marked_off(text))
        prefixes = []
        for step in steps:
            digest.update(_marked_off(step))
            prefixes.append(digest.digest())
        return cls(prompt, steps, tuple(prefixes))


def _marked_off(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "big") + encoded


@dataclass(slots=True)
class _StepRewards:
    """Rewards in [0, 1] by prefix; of a solution, those of a prefix are known before those of what follows it."""

    _by_prefix: dict[bytes, float] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Of how many steps a reward is known."""
        return len(self._by_prefix)

    def num_known(self, solution: _Solution) -> int:
        """How many of its first steps have rewards."""
        return next(
            (place for place, prefix in enumerate(solution.prefixes) if prefix not in self._by_prefix),
            len(solution.prefixes),
        )

    def of(self, solution: _Solution) -> list[float] | None:
        """The rewards of all steps; None if one is not known."""
        if self.num_known(solution) < len(solution.steps):
            return None
        return [self._by_prefix[prefix] for prefix in solution.prefixes]

    def learn(self, prefixes: Sequence[bytes], rewards: Sequence[float]) -> bool:
        """Keeps what a model said; False, and nothing is kept, if those are not one number for each step."""
        if len(rewards) != len(prefixes) or not all(math.isfinite(reward) for reward in rewards):
            _LOG.warning("no reward for each step", extra={"num_steps": len(prefixes), "num_rewards": len(rewards)})
            return False
        self._by_prefix.update(zip(prefixes, rewards, strict=True))
        return True


def _first_of_each_branch(
    solutions: Sequence[_Solution], rewards: _StepRewards
) -> tuple[list[_Solution], list[_Solution]]:
    """Those of which no two have the same first unknown step, and the rest."""
    taken: set[bytes] = set()
    first: list[_Solution] = []
    rest: list[_Solution] = []
    for solution in solutions:
        step = solution.prefixes[rewards.num_known(solution)]
        (rest if step in taken else first).append(solution)
        taken.add(step)
    return first, rest
