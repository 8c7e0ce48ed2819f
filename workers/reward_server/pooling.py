"""Token classifiers behind vLLM's ``/pooling``, as Qwen2.5-Math-PRM: a class for the tag after each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from orchestrator.engine import Prompt, Span, StepRewards
from orchestrator.workers.openai.body import estimated_tokens
from orchestrator.workers.reward_server.forms import as_number, as_probability
from orchestrator.workers.reward_server.options import RewardServerOptions
from orchestrator.workers.reward_server.server import Server
from orchestrator.workers.reward_server.texts import filled, tagged

_SUM_ROUNDING = 0.02  # of two probabilities in bfloat16


class PoolingForm:
    """Sends all steps, each with its tag, and reads the row of class probabilities at each tag.

    The reward is the probability of the good class (Zhang et al., 2025, arXiv:2501.07301). vLLM reads the whole text
    for each request: where every token is asked about, its prefix cache is not used.

    Args:
        server: Where to.
        options: Tag, template, classes.
        model: As the server calls it.
    """

    def __init__(self, server: Server, options: RewardServerOptions, *, model: str) -> None:
        self._server = server
        self._options = options
        self._model = model

    async def rewards(self, prompt: Prompt, steps: Sequence[str], num_known: int) -> StepRewards:
        """Rewards of ``steps[num_known:]``."""
        options = self._options
        text = tagged(steps, tag=options.step_tag, separator=options.separator)[-1]
        estimate = estimated_tokens(Prompt(prompt.messages, (Span(text),)))
        body = {"model": self._model, **self._input(prompt, text)}
        reply = await self._server.post("pooling", body, estimate=estimate)
        rows = self._rows(reply, len(steps))
        rewards = tuple(self._reward(row) for row in rows[num_known:])
        counted = self._server.counted(reply, estimate=estimate)
        return StepRewards(rewards, counted.prompt_tokens, counted.cached_tokens)

    def _input(self, prompt: Prompt, text: str) -> dict[str, Any]:  # Any: JSON values
        if self._options.text_template:
            return {"input": filled(self._options.text_template, prompt.messages, text)}
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        return {"messages": [*turns, {"role": "assistant", "content": text}]}

    def _rows(self, reply: Any, num_steps: int) -> list[list[float]]:  # Any: JSON value
        """One row of numbers for each step; a number alone counts as a row of one."""
        try:
            stated = reply["data"][0]["data"]
            rows = [[as_number(value) for value in (row if isinstance(row, list) else [row])] for row in stated]
        except (KeyError, IndexError, TypeError):
            raise self._server.malformed("no pooled data", reply) from None
        numbers = [[value for value in row if value is not None] for row in rows]
        if any(len(kept) < len(row) or not row for kept, row in zip(numbers, rows, strict=True)):
            raise self._server.malformed("pooled data that are not all numbers", stated)
        if len(numbers) != num_steps:
            raise self._server.malformed(
                f"{len(numbers)} rows for {num_steps} steps",
                stated,
                hint=f"it must answer the tag {self._options.step_tag!r} after each step and nothing else; start vLLM "
                'with --pooler-config \'{"pooling_type": "STEP", "step_tag_id": ID}\' if the model does not by itself',
            )
        return numbers

    def _reward(self, row: list[float]) -> float:
        if self._options.values == "logits":
            row = _softmax(row) if len(row) > 1 else [1 / (1 + math.exp(min(-row[0], 700.0)))]
        place = self._options.good_class if len(row) > 1 else 0
        if place >= len(row):
            raise self._server.malformed(f"rows of {len(row)} classes", row, hint=f"good_class is {place}")
        reward = as_probability(row[place])
        is_distribution = len(row) == 1 or abs(math.fsum(row) - 1) <= _SUM_ROUNDING
        if reward is None or not is_distribution or min(row) < -_SUM_ROUNDING:
            raise self._server.malformed("rows that are no probabilities", row, hint="set values=logits if they are")
        return reward


def _softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
