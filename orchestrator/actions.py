"""What a policy can buy, and what it gets: a small closed set of frozen values.

A policy yields an action and is sent the outcome named in the action's docstring. Actions hold only data, so that
they can be journaled, compared on replay, and sent to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.monitors import Monitor
from orchestrator.sampling import Sampling
from orchestrator.tree import Node

ConfidenceKind = Literal["majority_posterior", "verifier", "calibrated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the ledger said when an outcome was delivered; journaled, so a policy that reads it replays the same.

    Attributes:
        remaining: What is left under each cap, by field of `orchestrator.budget.Amount`; uncapped ones are absent.
        elapsed_s: Seconds since the job started.
        remaining_s: Seconds until the deadline; None without one.
    """

    remaining: Mapping[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    remaining_s: float | None = None


@dataclass(frozen=True, slots=True)
class Samples(Sequence[Node]):
    """Outcome of `Expand`: the new nodes in submission order; fewer than asked for when the budget was short.

    Attributes:
        nodes: One per sample that was paid for.
        num_requested: How many were asked for.
        snapshot: The budget after it.
    """

    nodes: tuple[Node, ...]
    num_requested: int
    snapshot: Snapshot = field(default_factory=Snapshot)

    @property
    def is_partial(self) -> bool:
        """Whether the budget did not allow all samples."""
        return len(self.nodes) < self.num_requested

    def __getitem__(self, index: Any) -> Any:  # Any: int -> Node, slice -> tuple of nodes
        return self.nodes[index]

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)


@dataclass(frozen=True, slots=True)
class ScoreList(Sequence[float | None]):
    """Outcome of `Score`: one score in [0, 1] per node; None where the verifier gave none.

    Attributes:
        scores: In the order of the nodes.
        problems: What went wrong, one sentence for each missing score that has a reason.
        snapshot: The budget after it.
    """

    scores: tuple[float | None, ...]
    problems: tuple[str, ...] = ()
    snapshot: Snapshot = field(default_factory=Snapshot)

    def __getitem__(self, index: Any) -> Any:  # Any: int -> score, slice -> tuple of scores
        return self.scores[index]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[float | None]:
        return iter(self.scores)


@dataclass(frozen=True, slots=True)
class Stream:
    """Outcome of `Start`: names a running expansion for `Next` and `Cancel`."""

    id: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy returns.

    Attributes:
        text: The final answer; None if there is none.
        node: The node whose trajectory states it.
        confidence: How sure the policy is, in [0, 1]; None if it cannot say.
        confidence_kind: What `confidence` is the probability of; always given with it.
        alternatives: Rival answers with their shares of the votes or their scores, best first.
    """

    text: str | None
    node: Node | None = None
    confidence: float | None = None
    confidence_kind: ConfidenceKind | None = None
    alternatives: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if (self.confidence is None) != (self.confidence_kind is None):
            raise ValueError("confidence and confidence_kind are given together")


@dataclass(frozen=True, slots=True)
class Expand:
    """Sample continuations of nodes. Outcome: `Samples`.

    Attributes:
        nodes: What to continue.
        num_samples: Samples of each node, or one number per node.
        model: A role (``"small"``, ``"large"``) or a model's name.
        max_tokens: Most tokens per sample; None for the configured default.
        sampling: How tokens are chosen; None for the job's.
        stop: A sample also ends with the token that completes one of these.
        monitors: Rules that may cut a sample while it is generated.
        forced: Text put after each node and before what the model writes.
        num_logprobs: See `orchestrator.engine.GenerateRequest`.
    """

    nodes: Sequence[Node]
    num_samples: int | Sequence[int] = 1
    model: str = "small"
    max_tokens: int | None = None
    sampling: Sampling | None = None
    stop: tuple[str, ...] = ()
    monitors: tuple[Monitor, ...] = ()
    forced: str = ""
    num_logprobs: int = 0

    def counts(self) -> tuple[int, ...]:
        """Samples of each node."""
        if isinstance(self.num_samples, int):
            return (self.num_samples,) * len(self.nodes)
        return tuple(self.num_samples)


@dataclass(frozen=True, slots=True)
class Score:
    """Have nodes scored by a verifier. Outcome: `ScoreList`."""

    nodes: Sequence[Node]
    verifier: str = "default"


@dataclass(frozen=True, slots=True)
class Embed:
    """Turn the nodes' own texts into unit vectors. Outcome: float32 array of shape [number of nodes, dimension]."""

    nodes: Sequence[Node]
    model: str = "embedder"


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of the KV of all nodes except those on the way to ``all_but``. Free. Outcome: None.

    Attributes:
        all_but: What the policy may still go on from.
        reason: Why the others are given up, in a few words, for people who look at the tree.
    """

    all_but: Sequence[Node] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin an expansion whose samples are fetched one by one. Outcome: `Stream`.

    Attributes:
        expand: What to sample.
        parallel: Most samples in flight; sample i starts when sample i - parallel has been delivered.
        order: ``"submission"`` delivers in the order asked for; ``"arrival"`` as they finish, which favours short
            answers in early votes.
    """

    expand: Expand
    parallel: int = 4
    order: Literal["submission", "arrival"] = "submission"


@dataclass(frozen=True, slots=True)
class Next:
    """The next sample of a stream. Outcome: `Node`, or None when no more were asked for or can be paid for."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a stream; what its samples in flight have generated is paid for. Outcome: None."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class Propose:
    """Publish the best answer so far. Free. Outcome: None."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Commit:
    """This node's text is the answer; what the next expansion of it generates is streamed to the caller as such.

    Free. Outcome: None.
    """

    node: Node


@dataclass(frozen=True, slots=True)
class Conclude:
    """Make a node that was cut off state its answer: the answer cue is put after it and a few tokens are sampled
    greedily. May draw on the answer reserve. Outcome: `Node`.
    """

    node: Node
    model: str = "small"


@dataclass(frozen=True, slots=True)
class Compute:
    """Heavy arithmetic off the event loop. Outcome: what ``fn`` returns, which must be made of JSON values.

    Attributes:
        fn: An importable function, so that it can run in another process and be named in the journal.
        args: JSON values.
    """

    fn: Callable[..., Any]  # Any: JSON values in, a JSON value out
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class CallTool:
    """Call a tool the caller registered. Outcome: `Node` under ``node`` whose text is the result.

    Attributes:
        node: The branch that asks.
        name: The tool.
        arguments: JSON values.
    """

    node: Node
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AskHuman:
    """Ask a person; the job waits without holding compute, and its clock stops. Outcome: the reply, a string."""

    question: str


Action = (
    Expand
    | Score
    | Embed
    | Release
    | Start
    | Next
    | Cancel
    | Propose
    | Commit
    | Conclude
    | Compute
    | CallTool
    | AskHuman
)
