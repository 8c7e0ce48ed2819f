"""One sample on its way from being wanted to being a node: its text, its counts, its money."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from orchestrator.engine import Delta, FinishReason, Prompt, SampleSpec, Span
from orchestrator.errors import TtcError
from orchestrator.ledger import Reservation
from orchestrator.reply_form import ToolCall, canonical_calls
from orchestrator.tree import Node
from orchestrator.usage import Usage


class Stage(Enum):
    """How far a sample has come."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"  # journaled, not yet delivered
    FAILED = "failed"
    SETTLED = "settled"


@dataclass(slots=True, kw_only=True)
class Unit:
    """One sample.

    Attributes:
        index: Its place in submission order.
        parent: What it continues.
        seed: Of its random numbers.
        node_id: What its node will be called.
        grant: Tokens it may sample.
        reservation: Money set aside; None before it is admitted, and for samples read from the journal.
        was_paid: It comes from the journal of an earlier life, which is already in the books.
        repeats_prompt: Its prompt was paid for by an earlier life and has to be read again.
        stage: How far it has come.
        tokens_before: Tokens sampled by attempts that failed; part of `text` and of the grant.
        paid: What attempts that failed have cost.
        tokens: Tokens sampled by the attempt under way.
        recomputed_tokens: Read again for it by the attempt under way, beside the prompt's.
        tree_kv_cells: Most KV cells that its tree had held when it ended.
        tool_calls: What it asked for in the end.
        marked: Value of `tokens` at the last progress mark.
        node: The finished node.
        usage: What it cost.
        error: Why it failed.
    """

    index: int
    parent: Node
    seed: int
    node_id: str
    grant: int = 0
    reservation: Reservation | None = None
    was_paid: bool = False
    repeats_prompt: bool = False
    stage: Stage = Stage.WAITING
    tokens_before: int = 0
    paid: Usage = field(default_factory=Usage)
    tokens: int = 0
    recomputed_tokens: int = 0
    tree_kv_cells: int = 0
    marked: int = 0
    text: list[str] = field(default_factory=list)
    token_ids: list[int] | None = field(default_factory=list)
    logprob: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    node: Node | None = None
    usage: Usage = field(default_factory=Usage)
    error: TtcError | None = None

    def take(self, delta: Delta) -> None:
        """Adds what has been generated."""
        self.text.append(delta.text)
        self.tokens += delta.num_tokens
        if delta.token_ids is None:
            self.token_ids = None
        elif self.token_ids is not None:
            self.token_ids += delta.token_ids
        if delta.logprobs is not None:
            self.logprob = (self.logprob or 0.0) + sum(delta.logprobs)

    def spec(self) -> SampleSpec:
        """What is left to ask an engine for."""
        return SampleSpec(seed=self.seed, max_tokens=self.grant - self.tokens_before)

    def prompt(self, forced: str, tokenizer: str | None) -> Prompt:
        """Its parent's path, then what earlier attempts have written."""
        base = self.parent.prompt(forced=forced)
        if not self.text:
            return base
        ids = None if self.token_ids is None else tuple(self.token_ids)
        written = Span("".join(self.text), ids, tokenizer if ids is not None else None)
        return Prompt(base.messages, (*base.continuation, written))

    def start_over(self, *, may_continue: bool) -> None:
        """Prepares another attempt; ``tokens`` of the last one are accounted for by the caller."""
        self.tokens_before += self.tokens
        self.tokens = self.marked = self.recomputed_tokens = 0
        if not may_continue:
            self.text.clear()
            self.token_ids = []
            self.logprob = None

    def end_before(self, stop: str) -> None:
        """Drops the caller's stop string, and what came with it in the same token."""
        text, found, _ = "".join(self.text).partition(stop)
        if found:
            self.text[:] = [text]
            self.token_ids = None

    def build_node(
        self, *, forced: str, model: str, tokenizer: str | None, reason: FinishReason, detail: str | None
    ) -> Node:
        """The node, without its answer."""
        text = "".join(self.text)
        ids = None if self.token_ids is None else tuple(self.token_ids)
        return Node(
            id=self.node_id,
            parent=self.parent,
            forced=forced,
            text=forced + text,
            token_ids=ids,
            tokenizer=tokenizer if ids is not None else None,
            model=model,
            finish=reason,
            finish_detail=detail,
            output_tokens=self.tokens_before + self.tokens,
            logprob=self.logprob,
            answer=canonical_calls(self.tool_calls) if self.tool_calls else None,
            tool_calls=self.tool_calls,
        )
