"""Replays recorded pools: an engine that hands out samples, and one that hands out the scores of their steps.

What a pool cannot stand for is refused by name: a continued text, other sampling settings, a grammar, log probabilities
of tokens that were not chosen, another conversation, more samples than there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.bench.recorded.problem_set import PoolSet
from orchestrator.bench.recorded.records import Pool, PoolProblem, RecordedModel, StepScores
from orchestrator.bench.recorded.replies import Drawings, Reply
from orchestrator.engine import (
    Capability,
    GenerateRequest,
    GenerationEvent,
    Message,
    ModelDescription,
    Prefilled,
    Prompt,
    StepRewards,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import (
    BudgetExhausted,
    CapabilityMissing,
    EngineFailed,
    InvalidRequest,
    RunFailure,
    UnknownName,
)
from orchestrator.sampling import Sampling
from orchestrator.workers.writes_nothing import WritesNothing

__all__ = ["PoolEngine", "PoolExhausted", "PoolScorer", "PoolSet"]

_TEMPLATE_TOKENS_PER_MESSAGE = 16
"""A generous bound, for conversations whose length was not recorded."""


class PoolExhausted(BudgetExhausted):
    """A job asks for more samples of a problem than were recorded; to its policy it is a budget that is used up."""

    code = "pool_exhausted"

    def __init__(self, *, pool: str, problem: str, num_samples: int) -> None:
        RunFailure.__init__(
            self,
            f"pool {pool!r} holds {num_samples} samples of problem {problem!r} and the job asks for more; replay it "
            "with fewer samples, or record a larger pool",
            limit="pool_samples",
            remaining=0,
            requested=1,
        )


@dataclass(slots=True)
class _Live:
    replies: list[Reply] = field(default_factory=list)
    is_cancelled: bool = False


@dataclass(slots=True)
class _Counters:
    requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    decode_steps: int = 0


class _CountsOnly:
    """`Tokenizes`, as far as it can count: the controller counts prompts by it, so that budgets bind as they do with
    the recorded model.
    """

    _description: ModelDescription

    def describe(self) -> ModelDescription:
        """The recorded model, under the pool's name."""
        return self._description

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Refuses all but the empty text: a pool holds no vocabulary.

        Raises:
            CapabilityMissing: There is something to encode.
        """
        if text:
            raise CapabilityMissing(model=self._description.name, capability="tokenization")
        return ()

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Refuses all but no ids.

        Raises:
            CapabilityMissing: There is something to decode.
        """
        if token_ids:
            raise CapabilityMissing(model=self._description.name, capability="tokenization")
        return ""


class PoolEngine(_CountsOnly):
    """Plays the model whose samples a pool holds; implements `Engine` and, as far as it can count, `Tokenizes`.

    Each tree gets the samples of a problem in an order of its own, drawn by the seed of the first sample it asks for,
    and none twice. The first request of a tree reads the prompt; to later ones it is cached but for the last token, as
    the embedded engine would say, if the recorded engine shares prompts. A job that is resumed draws anew.

    Args:
        pool: The samples.

    Attributes:
        num_refused_samples: Samples that jobs asked for beyond those the pool holds. A policy that is short of samples
            goes on with those it has, so a measurement in which this is not 0 is one of smaller parameters.
    """

    def __init__(self, pool: Pool) -> None:
        header, model = pool.header, pool.header.model
        capabilities = {Capability.STRICT_COUNTS} | ({Capability.LOGPROBS} if header.has_logprobs else set())
        self.num_refused_samples = 0
        self._pool = pool
        self._description = _description(f"pool:{pool.name}", model, capabilities)
        self._drawings = Drawings(header.num_samples)
        self._live: dict[str, _Live] = {}
        self._counters = _Counters()
        self._is_closed = False

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Recorded samples; see `Engine.generate`. Nothing runs ahead of the reader.

        Raises:
            CapabilityMissing: The pool cannot stand for what is asked.
            InvalidRequest: The conversation was not recorded, the id is in use, a sample may not have a single token.
            PoolExhausted: Fewer samples are left than were asked for; those that are were delivered.
            EngineFailed: The engine was closed.
        """
        problem = self._checked(request)
        places, was_asked = self._drawings.take(
            request.tree_id, problem.id, count=len(request.samples), seed=request.samples[0].seed
        )
        if not places:
            raise self._exhausted(problem, len(request.samples))
        prefilled = self._prefilled(problem, is_cached=was_asked)
        live = self._live[request.request_id] = _Live()
        try:
            yield prefilled
            samples = problem.samples
            live.replies = [Reply(index, samples[place], request) for index, place in enumerate(places)]
            while live.replies:
                await asyncio.sleep(0)
                self._check_open()
                for event in self._round(live):
                    yield event
        finally:
            del self._live[request.request_id]
        if len(places) < len(request.samples) and not live.is_cancelled:
            raise self._exhausted(problem, len(request.samples) - len(places))

    def _round(self, live: _Live) -> Iterator[GenerationEvent]:
        """One delta of each sample; their ends, once the request is cancelled."""
        self._counters.decode_steps += 1
        for reply in live.replies:
            if not live.is_cancelled and not reply.is_over:
                delta = reply.next_delta()
                self._counters.output_tokens += delta.num_tokens
                yield delta
            if live.is_cancelled or reply.is_over:
                reply.is_finished = True
                yield reply.finished if reply.is_over else reply.cancelled
        live.replies = [reply for reply in live.replies if not reply.is_finished]

    def cancel(self, request_id: str) -> None:
        """Ends a request within one delta of one sample; unknown ids are ignored."""
        if (live := self._live.get(request_id)) is not None:
            live.is_cancelled = True

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:  # noqa: ARG002  # nothing is cached
        """What the tree has drawn may be forgotten before that of others."""
        self._drawings.release(tree_id)

    async def health(self) -> EngineHealth:
        """Exact counters."""
        counters = self._counters
        return EngineHealth(
            is_ready=not self._is_closed,
            detail="closed" if self._is_closed else "",
            live_sequences=sum(len(live.replies) for live in self._live.values()),
            requests=counters.requests,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            output_tokens=counters.output_tokens,
            decode_steps=counters.decode_steps,
        )

    async def aclose(self) -> None:
        """Live requests fail with `EngineFailed`; safe to call twice."""
        self._is_closed = True

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """As recorded; for what was not, an upper bound (a token is at least one byte)."""
        problem = self._pool.problem_of(prompt.messages)
        return _num_tokens(prompt, None if problem is None else problem.prompt_tokens)

    def _checked(self, request: GenerateRequest) -> PoolProblem:
        """The problem that is asked, if its samples answer the request."""
        self._check_open()
        check_capabilities(request, self._description)
        recorded = self._pool.header.sampling
        if request.sampling != recorded:
            raise self._missing(f"sampling at {_shown(request.sampling)} (it was recorded at {_shown(recorded)})")
        if request.num_logprobs > 1 or any(monitor.num_logprobs for monitor in request.monitors):
            raise self._missing("log probabilities of tokens that were not chosen")
        if request.request_id in self._live:
            raise InvalidRequest("the request id is in use", field="request_id", value=request.request_id)
        if not request.samples or any(sample.max_tokens < 1 for sample in request.samples):
            raise InvalidRequest("there must be samples, each of at least 1 token", field="samples")
        problem = self._pool.problem_of(request.prompt.messages)
        if problem is None:
            raise InvalidRequest(
                f"pool {self._pool.name!r} holds samples of {self._pool.header.set} only, and none for this "
                "conversation; replay it on the problems that were recorded, with the messages that were recorded",
                field="messages",
                value=request.prompt.messages[-1].content if request.prompt.messages else "",
            )
        return problem

    def _prefilled(self, problem: PoolProblem, *, is_cached: bool) -> Prefilled:
        is_cached = is_cached and self._description.shares_prompt
        prefilled = Prefilled(problem.prompt_tokens, max(0, problem.prompt_tokens - 1) if is_cached else 0)
        self._counters.requests += 1
        self._counters.prompt_tokens += prefilled.prompt_tokens
        self._counters.cached_prompt_tokens += prefilled.cached_tokens
        return prefilled

    def _exhausted(self, problem: PoolProblem, num_refused: int) -> PoolExhausted:
        self.num_refused_samples += num_refused
        return PoolExhausted(pool=self._pool.name, problem=problem.id, num_samples=len(problem.samples))

    def _missing(self, capability: str) -> CapabilityMissing:
        return CapabilityMissing(model=self._description.name, capability=capability)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineFailed("the pool was closed", model=self._description.name, is_retryable=False)


class PoolScorer(_CountsOnly, WritesNothing):
    """Plays a process reward model whose scores a pool holds; implements `Engine` and `RewardsSteps`.

    Counts are those of a model that had nothing in its cache.

    Args:
        pool: The scores.
        name: Whose.

    Raises:
        UnknownName: The pool has no scores of that name.
    """

    def __init__(self, pool: Pool, name: str) -> None:
        if name not in pool.header.scorers:
            hint = "" if pool.header.scorers else "record it again with a scorer"
            raise UnknownName(kind=f"scorer of pool {pool.name}", name=name, known=pool.header.scorers, hint=hint)
        self._pool = pool
        self._name = name
        model = pool.header.scorers[name]
        self._description = _description(f"pool:{pool.name}:{name}", model, {Capability.STRICT_COUNTS})
        self._scores: dict[str, dict[str, StepScores]] = {}
        self._num_read = self._num_requests = 0

    async def reward_steps(
        self,
        prompt: Prompt,
        steps: Sequence[str],
        *,
        num_known: int = 0,
        tree_id: str = "",  # noqa: ARG002  # nothing is cached
    ) -> StepRewards:
        """The recorded rewards; see `RewardsSteps`.

        Raises:
            EngineFailed: The text was not recorded, or not in these steps: a sample that was cut has no scores.
        """
        found = self._found(prompt.messages, "".join(steps))
        if found is None or len(found.steps) != len(steps):
            message = f"pool {self._pool.name!r} has no scores of {self._name} for this text: only whole samples have"
            raise EngineFailed(message, model=self._description.name, is_retryable=False)
        self._num_requests += 1
        self._num_read += found.prompt_tokens
        return StepRewards(found.steps[num_known:], found.prompt_tokens)

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Nothing is kept."""

    async def health(self) -> EngineHealth:
        """Exact counters."""
        return EngineHealth(requests=self._num_requests, prompt_tokens=self._num_read)

    async def aclose(self) -> None:
        """Nothing is open."""

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """What reading and scoring this took when it was recorded; for what was not, an upper bound."""
        found = self._found(prompt.messages, prompt.continuation_text)
        return found.prompt_tokens if found is not None else _num_tokens(prompt, None)

    def _found(self, messages: Sequence[Message], text: str) -> StepScores | None:
        problem = self._pool.problem_of(messages)
        if problem is None:
            return None
        by_text = self._scores.get(problem.id)
        if by_text is None:
            scored = (sample for sample in problem.samples if self._name in sample.scores)
            by_text = self._scores[problem.id] = {sample.text: sample.scores[self._name] for sample in scored}
        return by_text.get(text)


def _description(name: str, model: RecordedModel, capabilities: Iterable[Capability]) -> ModelDescription:
    return ModelDescription(
        name=name,
        engine="pool",
        context_length=model.context_length,
        cost=model.cost,
        capabilities=frozenset(capabilities),
        shares_prompt=model.shares_prompt,
    )


def _num_tokens(prompt: Prompt, recorded: int | None) -> int:
    written = len(prompt.continuation_text.encode())
    if recorded is not None:
        return recorded + written
    read = sum(len(message.content.encode()) for message in prompt.messages)
    return read + written + _TEMPLATE_TOKENS_PER_MESSAGE * (len(prompt.messages) + 1)


def _shown(sampling: Sampling) -> str:
    parts = [f"temperature={sampling.temperature:g}"]
    parts += [f"top_k={sampling.top_k}"] if sampling.top_k else []
    parts += [f"top_p={sampling.top_p:g}"] if sampling.top_p < 1 else []
    parts += [f"min_p={sampling.min_p:g}"] if sampling.min_p else []
    return ", ".join(parts)
