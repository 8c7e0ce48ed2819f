"""The parameters that all searches over steps share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from orchestrator.actions import Expand
from orchestrator.monitors import AnswerComplete
from orchestrator.policy import PolicyParams
from orchestrator.sampling import Sampling
from orchestrator.step_scores import STEP_DELIMITER, Aggregation
from orchestrator.tree import Node

Selection = Literal["weighted_majority", "best", "majority"]


class StepParams(PolicyParams):
    """How steps are sampled, and how an answer is chosen in the end."""

    model: str = Field("small", min_length=1, description="Role or name of the model that writes the steps")
    temperature: float | None = Field(
        1.0, ge=0, le=5, description="0 is greedy; null takes the sampling of the job instead"
    )
    step_delimiter: str = Field(STEP_DELIMITER, min_length=1, description="Text that ends a step")
    max_step_tokens: int = Field(256, ge=1, description="Most tokens of a step; a longer one goes on as the next step")
    max_tokens: int = Field(2048, ge=1, description="Most tokens of a trajectory; a longer one is given up")
    max_depth: int = Field(40, ge=1, le=1000, description="Most steps of a trajectory")
    aggregation: Aggregation = Field("last", description="How the scores of a trajectory's steps make its own")
    selection: Selection = Field(
        "weighted_majority", description="The answer with the largest sum of scores, the best-scored, or most votes"
    )

    @property
    def sampling(self) -> Sampling | None:
        """The temperature as sampling parameters; None for the job's."""
        return None if self.temperature is None else Sampling(temperature=self.temperature)

    def expand(self, nodes: Sequence[Node], num_samples: int | Sequence[int]) -> Expand:
        """One more step of nodes: a sample ends with the delimiter, or once the final answer stands."""
        return Expand(
            nodes,
            num_samples,
            model=self.model,
            max_tokens=self.max_step_tokens,
            sampling=self.sampling,
            stop=(self.step_delimiter,),
            monitors=(AnswerComplete(),),
        )


class StepSearchParams(StepParams):
    """Of searches whose steps a verifier judges."""

    verifier: str = Field("process_reward", min_length=1, description="Name of the verifier that scores each step")


class WidthParams(StepSearchParams):
    """Of searches that grow a number of trajectories side by side."""

    width: int = Field(16, ge=1, le=4096, description="Trajectories grown side by side; a finished one leaves a place")
