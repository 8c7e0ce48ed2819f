"""`WritesNothing`: the part of `Engine` that engines share whose model only judges, or only makes vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orchestrator.engine import GenerateRequest, GenerationEvent, ModelDescription
from orchestrator.errors import CapabilityMissing


class WritesNothing:
    """Refuses to generate; the engine says in `describe` whom the refusal is to name."""

    def describe(self) -> ModelDescription:
        """See `Engine.describe`."""
        raise NotImplementedError

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:  # noqa: ARG002
        """Refuses: this model does not write text.

        Raises:
            CapabilityMissing: Always.
        """
        nothing: tuple[GenerationEvent, ...] = ()
        for event in nothing:  # makes this an asynchronous generator
            yield event
        raise CapabilityMissing(model=self.describe().name, capability="generating text")

    def cancel(self, request_id: str) -> None:
        """Nothing is generated."""
