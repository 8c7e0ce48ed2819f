"""`ScriptedEngine`: a deterministic engine with no model in it, for tests, docs and simulation.

It owns the books: admission, counters, the prefix memory, the log. What is said is the script's business (`scripts`),
how a sample is cut into tokens that of `scripted_sample`, when it comes that of `scripted_request`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.clock import Clock, SystemClock
from orchestrator.cost import ModelCost
from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Capability,
    Delta,
    Finished,
    GenerateRequest,
    GenerationEvent,
    ModelDescription,
    Prefilled,
    Prompt,
    check_capabilities,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import ContextOverflow, EngineFailed, InvalidRequest, UnknownName
from orchestrator.testing.arithmetic import arithmetic
from orchestrator.testing.faults import Fault, FaultKind, FaultPlan
from orchestrator.testing.prefix_memory import PrefixMemory
from orchestrator.testing.scripted_request import NO_LATENCY, Latency, LiveRequest
from orchestrator.testing.scripted_sample import ReplyTokens, ScriptedSample, SpokenReply
from orchestrator.testing.scripts import Script, ScriptLike, as_script, babble
from orchestrator.testing.vocabulary import Vocabulary, WordVocabulary, text_of

ALL_CAPABILITIES = frozenset(Capability) - {Capability.GRAMMAR}
_TURN_TOKENS = 4
"""What the pretended chat template adds to each message, and the assistant's header to the whole."""


NO_SALT = ""


@dataclass(slots=True)
class _Counters:
    requests: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    decode_steps: int = 0


class ScriptedEngine:
    """Says what its script says, token by token, as an engine with a model would; implements `Engine` and `Tokenizes`.

    The same prompt and seed give the same text; at temperature 0 every seed counts as 0. Deadlines are left to the
    reader. Work is done only when the reader asks for the next event, so nothing runs ahead of it.

    Args:
        script: What it says; see `scripts.as_script` for the short forms.
        name: As the fleet calls it.
        latency: How long it pretends to take.
        faults: What goes wrong and when.
        capabilities: What it declares and accepts. GRAMMAR only means that the script is trusted to obey it.
        cost: Parameters, shape and prices.
        context_length: Tokens of prompt and reply together.
        tokens_per_delta: Most tokens in a `Delta`, from 1 to 32.
        vocabulary: Its tokens.
        clock: Waits; not asked with zero latency.
        keep_log: Whether `log` grows.
        num_slots: Requests worked on at once, others wait; None for any number.

    Attributes:
        log: Requests in order of arrival, refused ones included.
        released: What `release` was called with: (tree, prompts kept).
    """

    def __init__(
        self,
        script: ScriptLike,
        *,
        name: str = "scripted",
        latency: Latency = NO_LATENCY,
        faults: FaultPlan | None = None,
        capabilities: Iterable[Capability] = ALL_CAPABILITIES,
        cost: ModelCost | None = None,
        context_length: int = 32768,
        tokens_per_delta: int = 32,
        vocabulary: Vocabulary | None = None,
        clock: Clock | None = None,
        keep_log: bool = True,
        num_slots: int | None = None,
    ) -> None:
        if not 1 <= tokens_per_delta <= MAX_UNREAD_TOKENS:
            raise InvalidRequest(
                f"tokens_per_delta must be from 1 to {MAX_UNREAD_TOKENS}, not {tokens_per_delta}",
                field="tokens_per_delta",
                value=tokens_per_delta,
            )
        self.log: list[GenerateRequest] = []
        self.released: list[tuple[str, tuple[Prompt, ...]]] = []
        self._script: Script = as_script(script)
        self._vocabulary: Vocabulary = vocabulary or WordVocabulary()
        self._description = ModelDescription(
            name=name,
            engine="scripted",
            context_length=context_length,
            cost=cost or ModelCost(),
            tokenizer=self._vocabulary.fingerprint,
            capabilities=frozenset(capabilities),
        )
        self._latency = latency
        self._faults = faults
        self._tokens_per_delta = tokens_per_delta
        self._clock: Clock = clock or SystemClock()
        self._keep_log = keep_log
        self._slots: contextlib.AbstractAsyncContextManager[None] = (
            contextlib.nullcontext() if num_slots is None else asyncio.Semaphore(num_slots)
        )
        self._spoken = SpokenReply(self._vocabulary)
        self._live: dict[str, LiveRequest] = {}
        self._prefixes = PrefixMemory()
        self._counters = _Counters()
        self._num_calls = 0
        self._num_unseeded = 0
        self._deaths_left = 0
        self._is_closed = False

    # Engine

    def describe(self) -> ModelDescription:
        """The model and what can be done with it."""
        return self._description

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Samples from a prompt; see `Engine.generate`.

        Raises:
            InvalidRequest: The request id is in use, or a sample may not have a single token.
            ContextOverflow: Prompt and one token do not fit.
            CapabilityMissing: The request needs what this engine was told to lack.
            EngineFailed: As planned, or the engine was closed.
        """
        call, self._num_calls = self._num_calls, self._num_calls + 1
        if self._keep_log:
            self.log.append(request)
        prefilled = self._admit(request)
        fault = self._fault(call, request)
        live = self._begin(fault, most_tokens=request.max_unread_tokens)
        self._live[request.request_id] = live
        self._counters.requests += 1
        try:
            async with self._slots:
                await live.prefill(prefilled.prompt_tokens - prefilled.cached_tokens)
                live.begin(self._samples(request, prefilled.prompt_tokens, fault))
                self._read(request.cache_salt, request.prompt, prefilled)
                yield prefilled
                while events := await live.next_events():
                    for event in events:
                        if isinstance(event, Delta):
                            self._counters.output_tokens += event.num_tokens
                        elif isinstance(event, Finished):
                            self._prefixes.add(request.cache_salt, request.prompt, live.samples[event.index].text)
                        yield event
        finally:
            del self._live[request.request_id]
            self._counters.decode_steps += live.decode_steps

    def cancel(self, request_id: str) -> None:
        """Ends a request; unknown ids are ignored."""
        live = self._live.get(request_id)
        if live is not None:
            live.cancel()

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Noted in `released`; the prefix memory forgets nothing."""
        self.released.append((tree_id, tuple(keep)))

    async def health(self) -> EngineHealth:
        """Exact counters; output tokens are those delivered."""
        counters = self._counters
        return EngineHealth(
            is_ready=not self._is_closed and not self._deaths_left,
            detail="closed" if self._is_closed else "failing as planned" if self._deaths_left else "",
            live_sequences=sum(sample.is_live for live in self._live.values() for sample in live.samples),
            requests=counters.requests,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            output_tokens=counters.output_tokens,
            decode_steps=counters.decode_steps,
        )

    async def aclose(self) -> None:
        """Live requests fail with `EngineFailed`; safe to call twice."""
        self._is_closed = True
        for live in self._live.values():
            live.close()

    # Tokenizes

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens of the messages, four more for each and for the reply's header, and of what is written already."""
        messages = sum(len(self._vocabulary.tokenize(turn.content)) + _TURN_TOKENS for turn in prompt.messages)
        return messages + _TURN_TOKENS + len(self._spoken.continuation(prompt).ids)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of plain text."""
        return self._vocabulary.tokenize(text)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of ids."""
        return text_of(self._vocabulary, token_ids)

    # For tests

    @property
    def live_requests(self) -> frozenset[str]:
        """Ids of the requests being served."""
        return frozenset(self._live)

    def die(self, num_requests: int) -> None:
        """The next ``num_requests`` requests fail before their first event, as after a crash."""
        self._deaths_left = num_requests

    # For subclasses that can do more with a prompt than continue it

    async def read_prompt(self, prompt: Prompt, *, num_more_tokens: int = 0) -> Prefilled:
        """Reads a prompt, and more tokens after it, as one request of its own kind.

        Raises:
            ContextOverflow: They do not fit.
            EngineFailed: As planned, or the engine was closed.
        """
        self._check_open()
        read = self._prefill(NO_SALT, prompt, num_more_tokens=num_more_tokens)
        await self._begin(self._death()).prefill(read.prompt_tokens - read.cached_tokens)
        self._counters.requests += 1
        self._read(NO_SALT, prompt, read)
        return read

    # Inside

    def _admit(self, request: GenerateRequest) -> Prefilled:
        self._check_open()
        check_capabilities(request, self._description)
        if request.request_id in self._live:
            raise InvalidRequest("the request id is in use", field="request_id", value=request.request_id)
        if any(sample.max_tokens < 1 for sample in request.samples):
            raise InvalidRequest("max_tokens must be at least 1", field="max_tokens")
        return self._prefill(request.cache_salt, request.prompt, num_more_tokens=0)

    def _prefill(self, salt: str, prompt: Prompt, *, num_more_tokens: int) -> Prefilled:
        prompt_tokens = self.count_prompt_tokens(prompt) + num_more_tokens
        if prompt_tokens + 1 > self._description.context_length:
            raise ContextOverflow(
                model=self._description.name,
                prompt_tokens=prompt_tokens,
                context_length=self._description.context_length,
            )
        return Prefilled(prompt_tokens, self._cached_tokens(salt, prompt, prompt_tokens))

    def _cached_tokens(self, salt: str, prompt: Prompt, prompt_tokens: int) -> int:
        """Tokens that need not be read again; the last one always is."""
        prefix = self._prefixes.longest(salt, prompt)
        return 0 if prefix is None else min(self.count_prompt_tokens(prefix), prompt_tokens - 1)

    def _read(self, salt: str, prompt: Prompt, prefilled: Prefilled) -> None:
        """The prompt has been read: counted and remembered."""
        self._counters.prompt_tokens += prefilled.prompt_tokens
        self._counters.cached_prompt_tokens += prefilled.cached_tokens
        self._prefixes.add(salt, prompt)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineFailed("the engine is closed", model=self._description.name, is_retryable=False)

    def _fault(self, call: int, request: GenerateRequest) -> Fault | None:
        planned = None if self._faults is None else self._faults(call, request)
        if planned is not None and planned.is_lie and self._description.counts_exactly:
            raise ValueError(f"an engine with exact counts cannot be made to lie ({planned.kind}); drop STRICT_COUNTS")
        return self._death() or planned

    def _death(self) -> Fault | None:
        if not self._deaths_left:
            return None
        self._deaths_left -= 1
        return Fault(message="the scripted engine is down")

    def _begin(self, fault: Fault | None, *, most_tokens: int = MAX_UNREAD_TOKENS) -> LiveRequest:
        return LiveRequest(
            model=self._description.name,
            latency=self._latency,
            clock=self._clock,
            tokens_per_delta=min(self._tokens_per_delta, most_tokens),
            fault=fault,
        )

    def _samples(self, request: GenerateRequest, prompt_tokens: int, fault: Fault | None) -> list[ScriptedSample]:
        room = self._description.context_length - prompt_tokens
        extra = fault.extra_tokens if fault is not None and fault.kind is FaultKind.OVERRUN else 0
        miscount = fault.extra_tokens if fault is not None and fault.kind is FaultKind.MISCOUNT else 0
        samples: list[ScriptedSample] = []
        for index, spec in enumerate(request.samples):
            seed = self._effective_seed(request, spec.seed)
            limit = min(spec.max_tokens, room) + extra
            reply = self._reply_tokens(request.prompt, seed, limit)
            samples.append(
                ScriptedSample(index, reply, self._vocabulary, request, seed=seed, limit=limit, lie=miscount)
            )
        return samples

    def _effective_seed(self, request: GenerateRequest, seed: int) -> int:
        if request.sampling.is_greedy:
            return 0
        if Capability.SEEDS in self._description.capabilities:
            return seed
        self._num_unseeded += 1
        return self._num_unseeded

    def _reply_tokens(self, prompt: Prompt, seed: int, limit: int) -> ReplyTokens:
        whole = self._script(Prompt(prompt.messages), seed)
        if not prompt.continuation:
            return self._spoken.tokens(whole, limit=limit)
        rest = self._spoken.rest(whole, self._spoken.continuation(prompt), limit=limit)
        return rest or self._spoken.tokens(self._script(prompt, seed), limit=limit)


async def open_engine(target: str = "arithmetic") -> ScriptedEngine:
    """A scripted engine from the text by which people name it, as in ``--model scripted:arithmetic,token_s=0.01``.

    Args:
        target: ``arithmetic`` or ``babble``, then any of ``accuracy`` (of arithmetic, from 0 to 1), ``prefill_s``,
            ``token_s``, ``jitter`` and ``slots`` (requests at once), each as ``,NAME=NUMBER``; or ``say=TEXT``.

    Raises:
        UnknownName: There is no such script.
        InvalidRequest: An option is unknown or no number.
    """
    if target.startswith("say="):
        return ScriptedEngine(target.removeprefix("say="), name="say", keep_log=False)
    script_name, *pairs = target.split(",")
    options = dict(_option(pair) for pair in pairs)
    accuracy = options.pop("accuracy", 0.7)
    slots = options.pop("slots", None)
    scripts = {"arithmetic": arithmetic(accuracy=accuracy), "babble": babble()}
    if script_name not in scripts:
        raise UnknownName(kind="script", name=script_name, known=[*scripts, "say=TEXT"])
    return ScriptedEngine(
        scripts[script_name],
        name=script_name,
        latency=Latency(**options),
        keep_log=False,
        num_slots=None if slots is None else max(1, int(slots)),
    )


def _option(pair: str) -> tuple[str, float]:
    name, _, text = pair.partition("=")
    known = ("accuracy", "jitter", "prefill_s", "prefill_token_s", "slots", "token_s")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name not in known or not 0 <= value < math.inf:
        raise InvalidRequest(
            f"cannot read the option {pair!r}; write NAME=NUMBER with one of {', '.join(known)}",
            field="model",
            value=pair,
        )
    return name, value
