"""`RewardServerEngine`: a process reward model on a server, behind the `Engine` and `RewardsSteps` protocols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.engine import (
    Message,
    ModelDescription,
    Prompt,
    StepRewards,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.workers.reward_server.forms import Form
from orchestrator.workers.reward_server.server import Server
from orchestrator.workers.writes_nothing import WritesNothing

_PROBE = Prompt((Message("user", "What is 2 + 3?"),))
_PROBE_STEPS = ("2 + 3 = 5.\n\n", "The answer is 5.")


class RewardServerEngine(WritesNothing):
    """A process reward model on a server; made by `open_engine`. It generates nothing.

    Token counts are the server's; where it does not tell, a token for four bytes.

    Args:
        server: The server.
        form: How it is asked.
        description: The model.
        health_path: What a ``GET`` shows that the server is up.
    """

    def __init__(self, server: Server, form: Form, *, description: ModelDescription, health_path: str) -> None:
        self._server = server
        self._form = form
        self._description = description
        self._health_path = health_path
        self._is_closed = False
        self._num_requests = self._num_read = self._num_cached = self._num_live = 0

    def __repr__(self) -> str:
        return f"RewardServerEngine(model={self._description.name!r}, host={self._server.host!r})"

    def describe(self) -> ModelDescription:
        """The model."""
        return self._description

    async def reward_steps(
        self,
        prompt: Prompt,
        steps: Sequence[str],
        *,
        num_known: int = 0,
        tree_id: str = "",  # noqa: ARG002  # the server manages its cache
    ) -> StepRewards:
        """Rewards of ``steps[num_known:]``; see `RewardsSteps`.

        Raises:
            ContextOverflow: The server says that it does not fit.
            EngineFailed: The server could not be reached, refused, or sent something else than a reward in [0, 1] for
                each step.
        """
        if self._is_closed:
            raise self._server.closed()
        if num_known >= len(steps):
            return StepRewards((), 0)
        self._num_live += 1
        try:
            found = await self._form.rewards(prompt, steps, num_known)
        finally:
            self._num_live -= 1
        self._num_requests += 1
        self._num_read += found.prompt_tokens
        self._num_cached += found.cached_tokens
        return found

    async def probe(self) -> None:
        """Asks for the rewards of a small solution, outside all counts.

        Raises:
            ContextOverflow, EngineFailed: As `reward_steps` does.
        """
        await self._form.rewards(_PROBE, _PROBE_STEPS, 0)

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Does nothing: servers manage their caches themselves."""

    async def health(self) -> EngineHealth:
        """Our own counters, and whether the server answers."""
        trouble = await self._server.trouble(self._health_path)
        return EngineHealth(
            is_ready=not trouble,
            detail=trouble,
            live_sequences=self._num_live,
            requests=self._num_requests,
            prompt_tokens=self._num_read,
            cached_prompt_tokens=self._num_cached,
        )

    async def aclose(self) -> None:
        """Closes all connections; requests under way fail with `EngineFailed`. Safe to call twice."""
        self._is_closed = True
        await self._server.aclose()
