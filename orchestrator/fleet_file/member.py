"""An engine as a fleet's file lists it: under the name and with the prices there, otherwise itself."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any

from orchestrator.cost import TokenPrices
from orchestrator.engine import (
    Embeds,
    Engine,
    GenerateRequest,
    GenerationEvent,
    GivesLogits,
    ModelDescription,
    Prompt,
    RewardsSteps,
    ScoresTokens,
    Tokenizes,
)
from orchestrator.engine_health import EngineHealth

_ABILITIES: dict[type, tuple[str, ...]] = {
    Tokenizes: ("count_prompt_tokens", "tokenize", "detokenize"),
    ScoresTokens: ("score_tokens",),
    Embeds: ("embed",),
    GivesLogits: ("logits",),
    RewardsSteps: ("reward_steps",),
}
"""Protocols beside `Engine`, and their methods."""


class FleetMember:
    """An engine under another name, or with other prices; made by `as_member`.

    Attributes:
        engine: The engine itself.
    """

    def __init__(self, engine: Engine, description: ModelDescription) -> None:
        self.engine = engine
        self._description = description

    def describe(self) -> ModelDescription:
        """See `Engine.describe`."""
        return self._description

    def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """See `Engine.generate`."""
        return self.engine.generate(request)

    def cancel(self, request_id: str) -> None:
        """See `Engine.cancel`."""
        self.engine.cancel(request_id)

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """See `Engine.release`."""
        await self.engine.release(tree_id, keep=keep)

    async def health(self) -> EngineHealth:
        """See `Engine.health`."""
        return await self.engine.health()

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        await self.engine.aclose()


def as_member(engine: Engine, *, name: str, prices: TokenPrices | None = None) -> Engine:
    """The engine under a name and with prices, and with exactly its own protocols.

    Args:
        engine: It is not closed by what is returned being dropped, only by its ``aclose``.
        name: What the fleet calls it.
        prices: None for those it has.
    """
    own = engine.describe()
    listed = replace(own, name=name)
    if prices is not None:
        listed = replace(listed, cost=replace(own.cost, prices=prices))
    if listed == own:
        return engine
    abilities = frozenset(ability for ability in _ABILITIES if isinstance(engine, ability))
    member: Engine = _member_class(abilities)(engine, listed)
    return member


@functools.cache
def _member_class(abilities: frozenset[type]) -> type[FleetMember]:
    methods = {name: _delegated(name) for ability in abilities for name in _ABILITIES[ability]}
    return type("FleetMember", (FleetMember,), {"__doc__": FleetMember.__doc__, **methods})


def _delegated(name: str) -> Any:  # Any: a method of any of the protocols
    def call(self: FleetMember, *args: Any, **options: Any) -> Any:  # Any: as that method
        return getattr(self.engine, name)(*args, **options)

    call.__name__ = call.__qualname__ = name
    return call
