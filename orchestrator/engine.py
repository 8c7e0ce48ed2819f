"""What the controller expects of anything that runs a model: small protocols and the values they exchange.

An engine lives in `orchestrator.workers` or with a third party; a capability is the protocol it implements
(`Tokenizes`, `ScoresTokens`, `Embeds`, `GivesLogits`) or a `Capability` it declares. Contract suites for
all of them ship in `orchestrator.testing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from orchestrator.cost import ModelCost
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import CapabilityMissing
from orchestrator.monitors import Monitor
from orchestrator.reply_form import ToolCall, ToolOffer
from orchestrator.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_UNREAD_TOKENS = 32
"""An engine may run at most this many tokens per sequence ahead of what its reader has taken, and one that runs ahead
delivers at most 16 tokens a delta. With a progress mark after every 16 tokens taken (`orchestrator.journal`), a crash
loses at most 15 + 16 + 32 < 64 tokens per sequence beyond its last mark."""


class Capability(StrEnum):
    """What an engine may or may not be able to do in `Engine.generate`."""

    CONTINUE = "continuing a partial reply"
    LOGPROBS = "log probabilities"
    GRAMMAR = "grammar-constrained output"
    SEEDS = "per-sample seeds"
    STRICT_COUNTS = "exact token counts"
    TOOLS = "tool calls"


class FinishReason(StrEnum):
    """Why a sample ended."""

    END = "end"  # the model emitted an end-of-turn token
    STOP = "stop"  # a stop string was completed
    LENGTH = "length"  # max_tokens were sampled
    MONITOR = "monitor"  # a monitor cut it
    CANCELLED = "cancelled"  # Engine.cancel was called
    TOOL_CALL = "tool_call"  # the model asks for a tool


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said; may be empty beside `tool_calls`.
        tool_calls: Calls that an assistant asked for.
        tool_call_id: Which of them a tool's result answers.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    def to_json(self) -> list[Any]:
        """JSON values: role and content, then what belongs to tools where there is any."""
        if not self.tool_calls and not self.tool_call_id:
            return [self.role, self.content]
        return [self.role, self.content, [call.to_json() for call in self.tool_calls], self.tool_call_id]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Self:
        """The inverse of `to_json`."""
        role, content, *rest = data
        calls, call_id = rest or ((), "")
        return cls(role, content, tuple(ToolCall(*call) for call in calls), call_id)


@dataclass(frozen=True, slots=True)
class Span:
    """Text that is already part of the reply, with its token ids where an engine knows them.

    Attributes:
        text: The text.
        token_ids: Its ids in the vocabulary `tokenizer`; they are authoritative, text is not encoded again.
        tokenizer: Fingerprint of the vocabulary the ids belong to; an engine with another one encodes `text`.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model continues: a conversation, and what it has already written of its reply."""

    messages: tuple[Message, ...]
    continuation: tuple[Span, ...] = ()

    @property
    def continuation_text(self) -> str:
        """The partial reply as text."""
        return "".join(span.text for span in self.continuation)


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """One sample wanted from a prompt.

    Attributes:
        seed: In [0, 2**32).
        max_tokens: Most tokens to sample, an end-of-turn token included; at least 1.
    """

    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Samples wanted from one prompt.

    Attributes:
        request_id: Unique among live requests; names the request in `Engine.cancel`.
        prompt: What to continue; its KV is computed once for all samples.
        samples: One entry per sample.
        sampling: How tokens are chosen.
        stop: A sample ends with the token that completes one of these strings; that token is kept.
        monitors: A sample ends with the token at which one of these says so; that token is kept.
        num_logprobs: 0 for none; k gives the chosen token's log probability and those of the k likeliest tokens.
        json_schema: The text must be a JSON value of this schema.
        grammar: The text must match this GBNF grammar; not together with `json_schema`.
        tools: What the model may ask for instead of, or after, text.
        tree_id: Prefixes of one tree share their cache and are released together.
        cache_salt: Requests with different salts never share cached prefixes (tenants).
        priority: Smaller is served first.
        deadline_s: Seconds from now after which the reply is worthless; None for no limit.
        max_unread_tokens: An engine that runs ahead of its reader does so by at most this many tokens per sample, and
            puts at most half as many into a delta; `MAX_UNREAD_TOKENS`, or less when there is another reader between.
    """

    request_id: str
    prompt: Prompt
    samples: tuple[SampleSpec, ...]
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    monitors: tuple[Monitor, ...] = ()
    num_logprobs: int = 0
    json_schema: Mapping[str, Any] | None = None  # Any: JSON Schema
    grammar: str | None = None
    tools: ToolOffer | None = None
    tree_id: str = ""
    cache_salt: str = ""
    priority: int = 0
    deadline_s: float | None = None
    max_unread_tokens: int = MAX_UNREAD_TOKENS


@dataclass(frozen=True, slots=True)
class Prefilled:
    """First event of a stream: the prompt has been read.

    Attributes:
        prompt_tokens: Its length, once for all samples.
        cached_tokens: How many of them were already in the KV cache.
        recomputed_tokens: How many of the others the cache had held for this tree, and had to give up.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    recomputed_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenAlternatives:
    """The likeliest tokens at one position: ids (or texts, for remote servers) and natural log probabilities."""

    tokens: tuple[int | str, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """More of one sample: at most 32 tokens (16 from an engine that runs ahead of its reader).

    Attributes:
        index: Which sample.
        text: New text; whole characters only, so it may lag behind `token_ids`.
        num_tokens: Tokens sampled since the last delta, end-of-turn tokens included.
        token_ids: Their ids without end-of-turn tokens; None where the engine does not know them.
        logprobs: Natural log probability of each of `token_ids` before truncation and temperature; None unless asked.
        alternatives: One entry per token; None unless asked.
        token_texts: Text of each token, where log probabilities were asked for and ids are not known.
    """

    index: int
    text: str
    num_tokens: int
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    alternatives: tuple[TokenAlternatives, ...] | None = None
    token_texts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of one sample.

    Attributes:
        index: Which sample.
        reason: Why it ended.
        output_tokens: Tokens sampled for it in all, as the engine counts them.
        detail: The stop string, or the name of the monitor, that ended it.
        is_estimated: The count is this side's own, for want of the server's.
        recomputed_tokens: Tokens read again because the sample, or its prompt, had made room for others meanwhile.
        tree_kv_cells: Most KV cells that its tree has held so far; 0 where there is none to see.
        tool_calls: What the model asks for, if it ended with that.
    """

    index: int
    reason: FinishReason
    output_tokens: int
    detail: str | None = None
    is_estimated: bool = False
    recomputed_tokens: int = 0
    tree_kv_cells: int = 0
    tool_calls: tuple[ToolCall, ...] = ()


GenerationEvent = Prefilled | Delta | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model as an engine serves it.

    Attributes:
        name: As the fleet calls it.
        engine: The engine's registered name.
        context_length: Tokens of prompt and reply together.
        cost: Parameters, shape and prices, for the cost models.
        tokenizer: Fingerprint of the vocabulary; equal fingerprints mean equal token ids. None if unknown.
        capabilities: What `Engine.generate` can do.
        shares_prompt: Whether the prompt is read (and billed) once for all samples of a request.
    """

    name: str
    engine: str
    context_length: int
    cost: ModelCost = field(default_factory=ModelCost)
    tokenizer: str | None = None
    capabilities: frozenset[Capability] = frozenset()
    shares_prompt: bool = True

    @property
    def counts_exactly(self) -> bool:
        """Whether caps on this model are strict."""
        return Capability.STRICT_COUNTS in self.capabilities


@runtime_checkable
class Engine(Protocol):
    """Runs one model. All methods may be called from the event loop and never block it."""

    def describe(self) -> ModelDescription:
        """The model and what can be done with it; constant while the engine is open."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        """Samples from a prompt: one `Prefilled`, then interleaved `Delta`s, one `Finished` for each sample.

        The first `Prefilled` may be corrected by later ones, where a server counts the prompt only at the end; the
        last one wins, and the first sample's comes before its `Finished`.

        Closing the iterator early stops the work at once, without exact counts; `cancel` stops it with them.

        Raises:
            ContextOverflow: Prompt and one token do not fit.
            CapabilityMissing: The request needs what this engine lacks.
            EngineFailed: The model stopped; events delivered so far stay valid.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Ends a request: each live sample gets a `Finished` (cancelled) with its exact count within one decode
        step, and the stream ends. Unknown ids are ignored.
        """
        ...

    async def release(self, tree_id: str, *, keep: Iterable[Prompt] = ()) -> None:
        """Unpins the cached prefixes of a tree, except those on the way to `keep`."""
        ...

    async def health(self) -> EngineHealth:
        """The engine's own counters."""
        ...

    async def aclose(self) -> None:
        """Stops all work and frees the model; safe to call twice."""
        ...


@runtime_checkable
class Tokenizes(Protocol):
    """Knows its model's vocabulary and chat template."""

    def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens the model reads for ``prompt``, template included."""
        ...

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of plain text, without special tokens."""
        ...

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
        ...


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Natural log probabilities of given tokens, shape [n], and what computing them took."""

    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int = 0
    recomputed_tokens: int = 0


@runtime_checkable
class ScoresTokens(Protocol):
    """Can say how likely given tokens are."""

    async def score_tokens(self, prompt: Prompt, token_ids: Sequence[int], *, tree_id: str = "") -> TokenScores:
        """Log probability of each of ``token_ids`` as the continuation of ``prompt``; ``tree_id`` as in
        `GenerateRequest`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors, float32 of shape [number of texts, dimension], and what computing them took."""

    vectors: npt.NDArray[np.float32]
    prompt_tokens: int


@runtime_checkable
class Embeds(Protocol):
    """Can turn texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """One L2-normalised vector per text."""
        ...


@dataclass(frozen=True, slots=True)
class LogitRow:
    """Unnormalised log probabilities of the next token, float32 of shape [vocabulary]."""

    logits: npt.NDArray[np.float32]
    prompt_tokens: int
    cached_tokens: int = 0


@runtime_checkable
class GivesLogits(Protocol):
    """Can show the full distribution of the next token."""

    async def logits(self, prompt: Prompt) -> LogitRow:
        """Logits of the token after ``prompt``."""
        ...


@dataclass(frozen=True, slots=True)
class StepRewards:
    """How good each step of a partial reply is, in [0, 1], and what computing that took."""

    rewards: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int = 0
    recomputed_tokens: int = 0


@runtime_checkable
class RewardsSteps(Protocol):
    """Hosts a process reward model; how the model wants its steps marked is the engine's business."""

    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        """Rewards of ``steps[num_known:]``.

        Args:
            prompt: The conversation; no partial reply.
            steps: Texts that make up the reply when they are put together, delimiters included.
            num_known: So many steps were rewarded before; they are read (from the cache, if they are still there).
            tree_id: As in `GenerateRequest`.

        Raises:
            CapabilityMissing: The model is no process reward model.
            ContextOverflow: It does not fit.
            EngineFailed: The model stopped.
        """
        ...


_P = TypeVar("_P")

_PROTOCOL_NAMES: dict[type, str] = {
    Tokenizes: "tokenization",
    ScoresTokens: "scoring of given tokens",
    Embeds: "embeddings",
    GivesLogits: "full logits",
    RewardsSteps: "rewards of steps",
}


def require(engine: Engine, protocol: type[_P], *, fleet: Iterable[Engine] = ()) -> _P:
    """The engine as a ``protocol``.

    Raises:
        CapabilityMissing: It is not one; names the engines of ``fleet`` that are.
    """
    if isinstance(engine, protocol):
        return engine
    able = [other.describe().name for other in fleet if isinstance(other, protocol)]
    raise CapabilityMissing(model=engine.describe().name, capability=_PROTOCOL_NAMES[protocol], able=able)


def check_capabilities(request: GenerateRequest, description: ModelDescription) -> None:
    """Refuses a request that needs what the engine lacks; every engine calls this first.

    Raises:
        CapabilityMissing: Naming what is missing.
    """
    needed: list[Capability] = []
    if request.prompt.continuation:
        needed.append(Capability.CONTINUE)
    if request.num_logprobs or any(monitor.num_logprobs for monitor in request.monitors):
        needed.append(Capability.LOGPROBS)
    if request.json_schema is not None or request.grammar is not None:
        needed.append(Capability.GRAMMAR)
    if request.tools is not None or any(turn.tool_calls for turn in request.prompt.messages):
        needed.append(Capability.TOOLS)
    for capability in needed:
        if capability not in description.capabilities:
            raise CapabilityMissing(model=description.name, capability=capability.value)
