"""Language models that answer a tag after each step with one of two tokens, as Math-Shepherd, by log probabilities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from orchestrator.engine import Prompt, StepRewards
from orchestrator.workers.openai.dialect import Dialect
from orchestrator.workers.reward_server.answers import Answers, generated, of_echo, of_prompt_logprobs, reward_of
from orchestrator.workers.reward_server.options import RewardServerOptions
from orchestrator.workers.reward_server.server import Counted, Server
from orchestrator.workers.reward_server.texts import filled, tagged

_LOG = logging.getLogger(__name__)


class StepTagForm:
    """Reads the likeliest answers to tags: P(good) / (P(good) + P(bad)) (Wang et al., 2024, arXiv:2312.08935).

    One new step, as in a tree search, takes one request for one token after its tag, which finds all before it in the
    server's prefix cache. Several take one pass over all, where the server can tell the likeliest tokens inside a
    prompt; vLLM does that without its prefix cache. Where the server cannot, or the tags cannot be found among the
    prompt's tokens, they take a request each, one after the other, so that each finds the one before it in the cache.

    Args:
        server: Where to.
        options: Tag, template, answers.
        model: As the server calls it.
        dialect: The server's.
    """

    def __init__(self, server: Server, options: RewardServerOptions, *, model: str, dialect: Dialect) -> None:
        self._server = server
        self._options = options
        self._model = model
        self._dialect = dialect
        self._many_at_once: Literal["vllm", "echo", "off"]
        if options.prompt_logprobs == "auto":
            self._many_at_once = "vllm" if dialect.name == "vllm" else "off"
        else:
            self._many_at_once = options.prompt_logprobs

    async def rewards(self, prompt: Prompt, steps: Sequence[str], num_known: int) -> StepRewards:
        """Rewards of ``steps[num_known:]``; the tokens written to get them are counted as read."""
        options = self._options
        replies = tagged(steps, tag=options.step_tag, separator=options.separator)
        texts = [filled(options.text_template, prompt.messages, reply) for reply in replies]
        lost = Counted(0, 0, 0)
        if num_known < len(steps) - 1 and self._many_at_once != "off":
            answers, counted = await self._in_one_pass(texts[-1], len(steps))
            if answers is not None:
                return _step_rewards([self._reward(own) for own in answers[num_known:]], counted)
            _LOG.info("tags are not found in a prompt; one request for each from now on", extra={"model": self._model})
            self._many_at_once, lost = "off", counted
        rewards, counted = await self._one_by_one(texts[num_known:])
        return _step_rewards(rewards, _sum(lost, counted))

    async def _in_one_pass(self, text: str, num_steps: int) -> tuple[list[Answers] | None, Counted]:
        extra: dict[str, Any] = {"echo": True}  # Any: JSON values
        if self._many_at_once == "vllm":
            extra = {"prompt_logprobs": self._options.num_logprobs, "return_token_ids": True}
        reply, counted = await self._ask(text, extra)
        found = of_echo(reply) if self._many_at_once == "echo" else of_prompt_logprobs(reply)
        return (found if found is not None and len(found) == num_steps else None), counted

    async def _one_by_one(self, texts: Sequence[str]) -> tuple[list[float], Counted]:
        rewards: list[float] = []
        counts: list[Counted] = []
        for text in texts:
            reply, counted = await self._ask(text, {})
            found = generated(reply)
            if found is None:
                raise self._server.malformed("no log probabilities", reply, hint="let the server give logprobs")
            rewards.append(self._reward(found))
            counts.append(counted)
        if not self._dialect.shares_prefixes:
            return rewards, _sum(*counts)
        num_answers = sum(count.output_tokens for count in counts)
        return rewards, Counted(counts[-1].prompt_tokens, counts[0].cached_tokens, num_answers)

    async def _ask(self, text: str, extra: dict[str, Any]) -> tuple[Any, Counted]:  # Any: JSON values
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": text,
            "max_tokens": 1,
            "temperature": 1,  # the model's own probabilities, should a server report those it samples from
            "top_p": 1,
            "logprobs": self._options.num_logprobs,
            **extra,
        }
        if self._dialect.repetition_field:
            body[self._dialect.repetition_field] = 1.0
        estimate = len(text.encode()) // 4 + 1
        reply = await self._server.post("v1/completions", body, estimate=estimate)
        return reply, self._server.counted(reply, estimate=estimate)

    def _reward(self, answers: Answers) -> float:
        options = self._options
        reward = reward_of(answers, good=options.good, bad=options.bad, num_likeliest=options.num_logprobs)
        if reward is None:
            likeliest = [token for token, _ in sorted(answers, key=lambda answer: -answer[1])[:5]]
            raise self._server.malformed(
                "likeliest answers to a step's tag",
                likeliest,
                hint=f"they do not settle between good={options.good!r} and bad={options.bad!r}; is it a model of the "
                f"step-tag form, and {options.step_tag!r} its tag?",
            )
        return reward


def _step_rewards(rewards: Sequence[float], counted: Counted) -> StepRewards:
    read = counted.prompt_tokens + counted.output_tokens
    return StepRewards(tuple(rewards), read, min(counted.cached_tokens, read))


def _sum(*counts: Counted) -> Counted:
    return Counted(*(sum(part) for part in zip(*counts, strict=True)))
