"""Scores a solution by a process reward model: one reward for each step, put together to one score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.engine import Prompt
from orchestrator.step_scores import STEP_DELIMITER, Aggregation, aggregated, split_steps
from orchestrator.verifier import Candidate, Meter


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
        """A score for each candidate; None for one without a step, or that was not paid for. Equal texts pay once."""
        prompts = {candidate: Prompt(candidate.prompt.messages) for candidate in candidates}
        distinct = {(prompt, candidate.text): None for candidate, prompt in prompts.items()}
        split = {key: split_steps(key[1], self.delimiter) for key in distinct}
        judged = [key for key, steps in split.items() if steps]
        rewards = await meter.reward_steps(
            [prompt for prompt, _ in judged], [split[key] for key in judged], model=self.model
        )
        scores = {
            key: aggregated(result.rewards, self.aggregation) if result is not None and result.rewards else None
            for key, result in zip(judged, rewards, strict=True)
        }
        return [scores.get((prompts[candidate], candidate.text)) for candidate in candidates]
