"""The reasoning tree: immutable spans of text linked to their parents, and what each was scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.engine import FinishReason, Message, Prompt, Span
from orchestrator.reply_form import ToolCall


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A span of text: a whole sample, one step of a search, or a root that holds a conversation.

    Attributes:
        id: Unique in the tree; says which action bought it (``"3.1"`` is sample 1 of action 3), so it is the same on
            every replay.
        parent: The node it continues; None for roots.
        messages: The conversation, for roots.
        answers_query: For roots that a policy opened: whether replies there answer the query, as those to the job's own
            conversation do (a judge's do not).
        forced: Text put before the model's own (for instance "Wait"); part of `text`.
        text: What this node adds to its parent.
        token_ids: Ids of `text` in the vocabulary `tokenizer`; None where the engine does not know them.
        tokenizer: Fingerprint of that vocabulary.
        model: The model that wrote it.
        finish: Why it ended; None for roots.
        finish_detail: The stop string or monitor that ended it.
        output_tokens: Tokens sampled for it.
        logprob: Sum of the log probabilities of its tokens; None unless asked for.
        answer: The final answer its trajectory states; None if none was found.
        answer_class: The equivalence class of that answer within the job.
        tool_calls: What its trajectory asks for in the end.
    """

    id: str
    parent: Node | None = None
    messages: tuple[Message, ...] = ()
    answers_query: bool = False
    forced: str = ""
    text: str = ""
    token_ids: tuple[int, ...] | None = None
    tokenizer: str | None = None
    model: str = ""
    finish: FinishReason | None = None
    finish_detail: str | None = None
    output_tokens: int = 0
    logprob: float | None = None
    answer: str | None = None
    answer_class: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def is_root(self) -> bool:
        """Whether it holds a conversation and no text."""
        return self.parent is None

    @property
    def is_final(self) -> bool:
        """Whether the model has said all it wanted to: it ended its turn, asked for a tool, or its answer stood."""
        return self.finish in {FinishReason.END, FinishReason.TOOL_CALL} or (
            self.finish is FinishReason.MONITOR and self.finish_detail == "answer_complete"
        )

    @property
    def is_cut(self) -> bool:
        """Whether it was ended from outside in the middle of a thought."""
        return self.finish in {FinishReason.LENGTH, FinishReason.CANCELLED}

    @property
    def depth(self) -> int:
        """Nodes above it."""
        return len(self.path()) - 1

    def path(self) -> tuple[Node, ...]:
        """Nodes from the root to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return tuple(reversed(nodes))

    @property
    def root(self) -> Node:
        """The node at the top of its path."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    @property
    def trajectory(self) -> str:
        """All text from the root to the end of this node."""
        return "".join(node.text for node in self.path())

    @property
    def trajectory_tokens(self) -> int:
        """Tokens sampled along the path."""
        return sum(node.output_tokens for node in self.path())

    def answered(self, answer: str | None, answer_class: str | None = None) -> Node:
        """The same node with its answer. Written out: two are made of every sample, and `replace` takes its time."""
        return Node(
            id=self.id,
            parent=self.parent,
            messages=self.messages,
            answers_query=self.answers_query,
            forced=self.forced,
            text=self.text,
            token_ids=self.token_ids,
            tokenizer=self.tokenizer,
            model=self.model,
            finish=self.finish,
            finish_detail=self.finish_detail,
            output_tokens=self.output_tokens,
            logprob=self.logprob,
            answer=answer,
            answer_class=answer_class,
            tool_calls=self.tool_calls,
        )

    def prompt(self, *, forced: str = "") -> Prompt:
        """What an engine continues to extend this node, optionally after ``forced`` text."""
        path = self.path()
        spans = [span for node in path[1:] for span in _spans_of(node)]
        if forced:
            spans.append(Span(forced))
        return Prompt(path[0].messages, tuple(spans))

    def to_json(self) -> dict[str, Any]:
        """JSON values; the parent is given by its id."""
        data: dict[str, Any] = {"id": self.id, "parent": self.parent.id if self.parent else None, "text": self.text}
        if self.messages:
            data["messages"] = [message.to_json() for message in self.messages]
        for name, default in _OPTIONAL.items():
            if (value := getattr(self, name)) != default:
                data[name] = value
        if self.token_ids is not None:
            data["token_ids"] = list(self.token_ids)
        if self.tool_calls:
            data["tool_calls"] = [call.to_json() for call in self.tool_calls]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], parents: Mapping[str, Node]) -> Node:
        """The inverse of `to_json`."""
        ids = data.get("token_ids")
        finish = data.get("finish")
        return cls(
            id=data["id"],
            parent=parents[data["parent"]] if data["parent"] is not None else None,
            messages=tuple(map(Message.from_json, data.get("messages", ()))),
            text=data["text"],
            token_ids=None if ids is None else tuple(ids),
            finish=None if finish is None else FinishReason(finish),
            tool_calls=tuple(ToolCall(*call) for call in data.get("tool_calls", ())),
            **{name: data[name] for name in _OPTIONAL if name in data and name != "finish"},
        )


_OPTIONAL: dict[str, str | int | None] = {
    "answers_query": False,
    "forced": "",
    "tokenizer": None,
    "model": "",
    "finish": None,
    "finish_detail": None,
    "output_tokens": 0,
    "logprob": None,
    "answer": None,
    "answer_class": None,
}


def _spans_of(node: Node) -> Iterator[Span]:
    if node.forced:
        yield Span(node.forced)
    own_text = node.text[len(node.forced) :]
    if own_text or node.token_ids:
        yield Span(own_text, node.token_ids, node.tokenizer)


class Tree:
    """All nodes of one job and their scores."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self._nodes: dict[str, Node] = {root.id: root}
        self._scores: dict[str, dict[str, float]] = {}

    def add(self, node: Node) -> None:
        """Adds a node whose parent is in the tree (or replaces an earlier version of it)."""
        assert node.parent is None or node.parent.id in self._nodes, f"{node.id}: parent is not in the tree"
        self._nodes[node.id] = node

    def __getitem__(self, node_id: str) -> Node:
        return self._nodes[node_id]

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes by id."""
        return self._nodes

    def answers_query(self, node: Node) -> bool:
        """Whether what it says is said to the query, and not in a conversation on the side."""
        return node.root is self.root or node.root.answers_query

    def leaves(self) -> list[Node]:
        """Nodes that hold text and that nothing continues, in order of creation."""
        parents = {node.parent.id for node in self if node.parent is not None}
        return [node for node in self if not node.is_root and node.id not in parents]

    def record_score(self, node: Node, verifier: str, score: float) -> None:
        """Notes a score in [0, 1]."""
        self._scores.setdefault(node.id, {})[verifier] = score

    def scores(self, node: Node) -> Mapping[str, float]:
        """Scores of a node by verifier."""
        return self._scores.get(node.id, {})

    def kv_tokens(
        self, root_tokens: Mapping[str, int] | None = None, *, ends: Iterable[Node] | None = None
    ) -> tuple[int, int]:
        """Tokens a KV cache would hold: (each node once, the whole path to each end).

        Text that a policy put in (`Node.forced`) has no known length and counts as 0.

        Args:
            root_tokens: Length of the conversations, by root; those that are left out count as 0.
            ends: Where the trajectories end that it holds; those of all leaves by default.
        """
        known = root_tokens or {}
        paths = [end.path() for end in (self.leaves() if ends is None else ends)]
        tokens = {
            node.id: known.get(node.id, 0) if node.is_root else node.output_tokens for path in paths for node in path
        }
        return sum(tokens.values()), sum(tokens[node.id] for path in paths for node in path)

    def to_json(self) -> list[dict[str, Any]]:
        """Nodes in order of creation, each with its scores."""
        return [{**node.to_json(), "scores": dict(self.scores(node))} for node in self]

    def check_integrity(self) -> None:
        """Raises AssertionError if a link is broken."""
        for node in self:
            assert node.parent is None or node.parent.id in self._nodes, f"{node.id}: lost parent"
            assert node.is_root == bool(node.messages), f"{node.id}: roots, and only roots, hold conversations"


def path_tokens(nodes: Iterable[Node]) -> int:
    """Longest chain of sampled tokens among the paths of ``nodes``."""
    return max((node.trajectory_tokens for node in nodes), default=0)
