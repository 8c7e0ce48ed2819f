"""Stand-ins for models where none may be asked: a replay runs on them and on its journal alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from orchestrator.engine import (
    Engine,
    GenerateRequest,
    GenerationEvent,
    ModelDescription,
    Prompt,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import EngineFailed
from orchestrator.fleet import Fleet

_CONTEXT_LENGTH = 1 << 40


class NoModel:
    """An engine that can be described and released, and that generates nothing.

    Args:
        name: Of the model it stands for.
    """

    def __init__(self, name: str) -> None:
        self._description = ModelDescription(name=name, engine="none", context_length=_CONTEXT_LENGTH)

    def describe(self) -> ModelDescription:
        """A model of that name that can do nothing."""
        return self._description

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:  # noqa: ARG002
        """Fails.

        Raises:
            EngineFailed: Always.
        """
        nothing: tuple[GenerationEvent, ...] = ()
        for event in nothing:  # makes this an asynchronous generator
            yield event
        raise EngineFailed("no model is open; only the journal may be used", model=self._description.name)

    def cancel(self, request_id: str) -> None:
        """Nothing is running."""

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Nothing is kept."""

    async def health(self) -> EngineHealth:
        """Never ready."""
        return EngineHealth(is_ready=False, detail="no model is open")

    async def aclose(self) -> None:
        """Nothing is open."""


class OfflineFleet(Fleet):
    """Has a stand-in for every role and name.

    Args:
        roles: Those that the recorded job's fleet had.
    """

    def __init__(self, roles: Iterable[str]) -> None:
        engines: dict[str, Engine] = {role: NoModel(role) for role in roles} or {"small": NoModel("small")}
        super().__init__(engines, {role: role for role in engines})

    def resolve(self, role_or_model: str) -> tuple[str, Engine]:
        """A stand-in, whatever the name."""
        return role_or_model, self.models.get(role_or_model) or NoModel(role_or_model)
