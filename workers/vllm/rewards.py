"""Process reward models in vLLM: classifiers of the tag after each step, and language models that answer it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.engine import ModelDescription, Prompt, StepRewards
from orchestrator.errors import EngineFailed
from orchestrator.workers.vllm import reading
from orchestrator.workers.vllm.core import Core
from orchestrator.workers.vllm.engine import VllmEngine
from orchestrator.workers.vllm.generator import VllmGenerator
from orchestrator.workers.vllm.prompts import PromptReader

if TYPE_CHECKING:
    from vllm.pooling_params import PoolingParams

_SUM_ROUNDING = 0.02  # of probabilities in bfloat16


class VllmClassifyingJudge(VllmEngine):
    """A classifier of tokens, as Qwen2.5-Math-PRM (Zhang et al., 2025, arXiv:2501.07301).

    The reward of a step is the probability of the good class at the tag after it. White space around a step is left
    out, as these models were trained. vLLM reads the whole text for each call: where every token is asked about, its
    prefix cache is not used.

    Args:
        core, prompts, description, kv_cells: As of `VllmEngine`.
        tag: The token after each step.
        good_class: Column of the good class, where there are several.
    """

    def __init__(
        self,
        core: Core,
        prompts: PromptReader,
        *,
        description: ModelDescription,
        kv_cells: int,
        tag: int,
        good_class: int,
    ) -> None:
        super().__init__(core, prompts, description=description, kv_cells=kv_cells)
        self._tag = tag
        self._good_class = good_class

    async def reward_steps(
        self,
        prompt: Prompt,
        steps: Sequence[str],
        *,
        num_known: int = 0,
        tree_id: str = "",  # noqa: ARG002  # vLLM manages its cache
    ) -> StepRewards:
        """Rewards of ``steps[num_known:]``; see `RewardsSteps`."""
        await self._core.ready()
        if num_known >= len(steps):
            return StepRewards((), 0)
        ids = await self._prompt_ids(Prompt(prompt.messages))
        places: list[int] = []
        for step in steps:  # a tag that a step spells is left out: no text earns rewards at places of its own choice
            ids += [token for token in self._prompts.vocabulary.encode(step.strip()) if token != self._tag]
            places.append(len(ids))
            ids.append(self._tag)
        self._require_room(len(ids), replies=0)
        with self._reading():
            output = await self._core.pool(ids, self._params(), self._next_id("judge"))
        rows = output.outputs.data.float().tolist()
        if len(rows) == len(ids):
            rows = [rows[place] for place in places]
        elif len(rows) != len(steps):
            raise self._misfit(f"{len(rows)} rows for {len(steps)} steps; is its step tag {self._tag}?")
        rewards = tuple(self._reward(row) for row in rows[num_known:])
        cached = min(output.num_cached_tokens or 0, len(ids))
        self._count_read(len(ids), cached)
        return StepRewards(rewards, len(ids), cached)

    def _params(self) -> PoolingParams:
        """Of a model that picks out tags itself, the tag; others give a row for every token, of which we pick."""
        from vllm.pooling_params import PoolingParams

        pooler = self._core.llm.model_config.pooler_config
        picks_tags = pooler is not None and pooler.tok_pooling_type == "STEP"
        return PoolingParams(task="token_classify", step_tag_id=self._tag if picks_tags else None)

    def _reward(self, row: Sequence[float]) -> float:
        place = self._good_class if len(row) > 1 else 0
        is_distribution = len(row) == 1 or abs(math.fsum(row) - 1) <= _SUM_ROUNDING
        if place >= len(row) or not is_distribution or not all(0 <= value <= 1 for value in row):
            raise self._misfit(f"a row that is no probability of {place + 1} or more classes: {row[:8]}")
        return row[place]

    def _misfit(self, what: str) -> EngineFailed:
        name = self._description.name
        return EngineFailed(f"reward model {name!r} gave {what}", model=name, is_retryable=False)


class StepTag(NamedTuple):
    """How a language model is asked: ids of the tag, and of its two answers."""

    tag: tuple[int, ...]
    good: int
    bad: int


class VllmAnsweringJudge(VllmGenerator):
    """A language model that answers a tag after each step with one of two tokens, as Math-Shepherd.

    Wang et al., 2024, arXiv:2312.08935: the reward is P(good) / (P(good) + P(bad)) for the token after the tag. A step
    that ends with the tag already (it may be the delimiter) gets no other. Each tag is a request for one token, which
    finds what came before it in the prefix cache.

    Args:
        core, prompts, description, kv_cells: As of `VllmEngine`.
        step_tag: Tag and answers.
    """

    def __init__(
        self, core: Core, prompts: PromptReader, *, description: ModelDescription, kv_cells: int, step_tag: StepTag
    ) -> None:
        super().__init__(core, prompts, description=description, kv_cells=kv_cells)
        self._step_tag = step_tag

    async def reward_steps(
        self,
        prompt: Prompt,
        steps: Sequence[str],
        *,
        num_known: int = 0,
        tree_id: str = "",  # noqa: ARG002  # vLLM manages its cache
    ) -> StepRewards:
        """Rewards of ``steps[num_known:]``; see `RewardsSteps`."""
        await self._core.ready()
        if num_known >= len(steps):
            return StepRewards((), 0)
        ids = await self._prompt_ids(Prompt(prompt.messages))
        ends: list[int] = []
        for step in steps:
            ids += self._prompts.vocabulary.encode(step)
            if tuple(ids[-len(self._step_tag.tag) :]) != self._step_tag.tag:
                ids += self._step_tag.tag
            ends.append(len(ids))
        self._require_room(len(ids))
        wanted = ends[num_known:]
        self._core.require_room(len(wanted))
        with self._reading():
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._answer(ids[:end])) for end in wanted]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        answers = [task.result() for task in tasks]
        computed = sum(end - cached for end, (_, cached) in zip(wanted, answers, strict=True))
        read = max(len(ids), computed)
        self._count_read(read, read - computed)
        return StepRewards(tuple(reward for reward, _ in answers), read, read - computed)

    async def _answer(self, ids: Sequence[int]) -> tuple[float, int]:
        """The reward at the end of ``ids``, and how many of them were cached."""
        answers = (self._step_tag.good, self._step_tag.bad)
        (good, bad), cached = await reading.of_tokens(self._core, ids, answers, self._next_id("judge"))
        return 1 / (1 + math.exp(min(bad - good, 700.0))), cached
