"""The parameters that all policies which draw whole samples share."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from orchestrator.actions import Expand
from orchestrator.policy import PolicyParams
from orchestrator.sampling import Sampling
from orchestrator.tree import Node


class SampleParams(PolicyParams):
    """How one sample is drawn."""

    model: str = Field("small", min_length=1, description="Role or name of the model that is sampled")
    temperature: float | None = Field(
        0.7, ge=0, le=5, description="0 is greedy; null takes the sampling of the job instead"
    )
    max_tokens: int | None = Field(None, ge=1, description="Most tokens per sample; null for the configured default")

    @property
    def sampling(self) -> Sampling | None:
        """The temperature as sampling parameters; None for the job's."""
        return None if self.temperature is None else Sampling(temperature=self.temperature)

    def expand(self, nodes: Sequence[Node], num_samples: int, *, num_logprobs: int = 0) -> Expand:
        """Samples of ``nodes`` drawn this way."""
        return Expand(
            nodes,
            num_samples=num_samples,
            model=self.model,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            num_logprobs=num_logprobs,
        )
