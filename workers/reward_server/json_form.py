"""A reward server that speaks our own contract: the steps are posted, their rewards come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yarl import URL

from orchestrator.engine import Prompt, Span, StepRewards
from orchestrator.workers.openai.body import estimated_tokens
from orchestrator.workers.reward_server.forms import as_probability
from orchestrator.workers.reward_server.options import RewardServerOptions
from orchestrator.workers.reward_server.server import Server
from orchestrator.workers.reward_server.texts import problem_of


class JsonForm:
    """Posts ``{"problem", "messages", "steps", "num_known"}`` and reads ``{"rewards"}``.

    ``rewards`` are those of ``steps[num_known:]``, each in [0, 1]; ``usage`` may say what they took, as in the OpenAI
    API.

    Args:
        server: Where to.
        options: Address and model.
    """

    def __init__(self, server: Server, options: RewardServerOptions) -> None:
        self._server = server
        self._model = options.model
        self.path = URL(options.url).path

    async def rewards(self, prompt: Prompt, steps: Sequence[str], num_known: int) -> StepRewards:
        """Rewards of ``steps[num_known:]``."""
        body: dict[str, Any] = {  # Any: JSON values
            "problem": problem_of(prompt.messages),
            "messages": [{"role": message.role, "content": message.content} for message in prompt.messages],
            "steps": list(steps),
            "num_known": num_known,
            "model": self._model or None,
        }
        estimate = estimated_tokens(Prompt(prompt.messages, tuple(Span(step) for step in steps)))
        reply = await self._server.post(self.path, body, estimate=estimate)
        stated = reply.get("rewards")
        num_new = len(steps) - num_known
        if not isinstance(stated, list) or len(stated) != num_new:
            what = f"{len(stated)} rewards" if isinstance(stated, list) else "no list of rewards"
            hint = f"it was asked for those of steps[{num_known}:], {num_new} of {len(steps)}"
            raise self._server.malformed(what, stated, hint=hint)
        rewards = [as_probability(value) for value in stated]
        checked = [reward for reward in rewards if reward is not None]
        if len(checked) < len(rewards):
            raise self._server.malformed("rewards that are not numbers from 0 to 1", stated)
        counted = self._server.counted(reply, estimate=estimate)
        return StepRewards(tuple(checked), counted.prompt_tokens + counted.output_tokens, counted.cached_tokens)
