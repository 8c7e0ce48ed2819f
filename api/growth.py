"""How the tree of a job grows: which trajectories are open, finished or given up after each action, and their KV.

It is fed with the rows of a journal in order, or with the events that they are; the live display and the trace page
share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestrator.engine import FinishReason
from orchestrator.tree import Node

Json = dict[str, Any]  # Any: JSON values


class Frame(NamedTuple):
    """The tree at one moment, in numbers.

    Attributes:
        num_nodes: Nodes that hold text.
        depth: Level of the deepest one; 0 if there is none.
        num_open: Trajectories that may go on.
        num_finished: Those whose model ended its turn or stated its answer.
        num_given_up: Those that a `Release` left out.
        held_tokens: KV tokens of the open trajectories, each prefix once.
        unshared_tokens: The same if each trajectory had a copy of its own.
        best: The answer that was proposed last.
    """

    num_nodes: int
    depth: int
    num_open: int
    num_finished: int
    num_given_up: int
    held_tokens: int
    unshared_tokens: int
    best: str | None

    def to_json(self) -> Json:
        """JSON values."""
        return self._asdict()


class GivenUp(NamedTuple):
    """When and why a branch was given up.

    Attributes:
        action: Number of the `Release`.
        reason: In the policy's words; may be empty.
    """

    action: int
    reason: str


class Choice(NamedTuple):
    """What was kept and given up, in trajectories, since the tree last grew.

    Attributes:
        num_kept: Open ones after it.
        reasons: How many were given up, by the policy's reason.
    """

    num_kept: int
    reasons: dict[str, int]

    @property
    def num_given_up(self) -> int:
        """Open ones that were left out."""
        return sum(self.reasons.values())


@dataclass(slots=True, eq=False)
class Branch:
    """What is known of one node.

    Attributes:
        node: The node; its answer's class may come later.
        parent: None for roots.
        level: Nodes above it.
        born: Number of the action that was under way when it was finished, or first asked for; -1 for the problem.
        tokens: KV tokens of its own text; of a root, of the conversation, once somebody has read it.
        given_up: None if it was not, or if it was taken up again.
        num_children: Nodes that continue it.
        num_dead_children: Those of them that are given up.
        num_leaves: Trajectories through it, whatever became of them.
        num_open: Trajectories through it that may go on.
    """

    node: Node
    parent: Branch | None
    level: int
    born: int
    tokens: int
    given_up: GivenUp | None = None
    num_children: int = 0
    num_dead_children: int = 0
    num_leaves: int = 0
    num_open: int = 0

    @property
    def is_leaf(self) -> bool:
        """Whether it ends a trajectory."""
        return self.parent is not None and self.num_children == 0

    @property
    def is_open(self) -> bool:
        """Whether it ends a trajectory that may go on."""
        is_ended = self.node.is_final or self.node.finish is FinishReason.CANCELLED
        return self.is_leaf and not is_ended and self.given_up is None

    def path(self) -> Iterator[Branch]:
        """From this one to the root."""
        branch: Branch | None = self
        while branch is not None:
            yield branch
            branch = branch.parent


class Growth:
    """The tree of one job, from its journal.

    Attributes:
        branches: By node id, in order of creation.
        action: Number of the action under way.
        best: The answer that was proposed last.
        last_choice: By the last `Release`, and those before it since the tree grew; None if there was none.
        unique_kv_tokens: Of all nodes, each once (`orchestrator.tree.Tree.kv_tokens`).
        logical_kv_tokens: Of all trajectories, each with a copy of its own.
    """

    def __init__(self) -> None:
        self.branches: dict[str, Branch] = {}
        self.action = 0
        self.best: str | None = None
        self.last_choice: Choice | None = None
        self.unique_kv_tokens = self.logical_kv_tokens = 0
        self._held_tokens = self._unshared_tokens = 0
        self._open: dict[str, Branch] = {}
        self._childless: dict[str, Branch] = {}  # kept, though all that continued them was given up
        self._num_nodes = self._depth = self._num_finished = self._num_given_up = 0
        self._has_grown = self._is_search = False
        self._add_root(Node(id="0"), born=-1)

    def take(self, kind: str, data: Json) -> None:
        """Notes a row of the journal, or the event that it is; those that do not change the tree are ignored."""
        for root in data.get("roots", ()):
            self._add_root(Node.from_json(root, {}), born=self.action)
        if kind == "sample" and "node" in data:
            self._add(data["node"], prompt_tokens=data["usage"].get("prompt_tokens", 0))
        elif kind == "done":
            if node := data["outcome"].get("node"):
                self._add(node)
            match data["action"]:
                case {"type": "Release", "all_but": kept}:
                    self._release(kept, GivenUp(data["a"], data["action"].get("reason", "")))
                case {"type": "Propose", "answer": {"text": text}}:
                    self.best = text
            self.action = data["a"] + 1

    @property
    def is_search(self) -> bool:
        """Whether trajectories fork below the root, or some were given up."""
        return self._is_search

    def frame(self) -> Frame:
        """The tree as it is now."""
        return Frame(
            num_nodes=self._num_nodes,
            depth=self._depth,
            num_open=len(self._open),
            num_finished=self._num_finished,
            num_given_up=self._num_given_up,
            held_tokens=self._held_tokens,
            unshared_tokens=self._unshared_tokens,
            best=self.best,
        )

    # -- what changes it -----------------------------------------------------------------------------------------

    def _add_root(self, node: Node, *, born: int) -> None:
        self.branches.setdefault(node.id, Branch(node, None, level=0, born=born, tokens=0))

    def _add(self, data: Json, *, prompt_tokens: int = 0) -> None:
        if data["id"] in self.branches:
            return
        parent = self.branches[data["parent"]]
        node = Node.from_json(data, {parent.node.id: parent.node})
        branch = Branch(node, parent, level=parent.level + 1, born=self.action, tokens=node.output_tokens)
        if parent.parent is None and prompt_tokens and not parent.tokens and not node.forced:
            self._learn_length(parent, prompt_tokens)
        self._has_grown = True
        self._is_search |= parent.parent is not None and parent.num_children > 0
        if parent.is_leaf:
            self._end(parent)
        self._revive(parent)
        parent.num_children += 1
        self.branches[node.id] = branch
        self._num_nodes += 1
        self._depth = max(self._depth, branch.level)
        self.unique_kv_tokens += branch.tokens
        self._num_finished += node.is_final
        if branch.is_open:
            self._open[node.id] = branch
        self._count(branch, leaves=1, opened=int(branch.is_open))

    def _end(self, leaf: Branch) -> None:
        """It is the end of a trajectory no more."""
        self._num_finished -= leaf.node.is_final
        self._num_given_up -= leaf.given_up is not None
        self._count(leaf, leaves=-1, opened=-int(leaf.is_open))
        self._open.pop(leaf.node.id, None)

    def _revive(self, branch: Branch) -> None:
        """A branch that was given up is taken up again, and so is the way to it."""
        for step in branch.path():
            if step.given_up is None:
                return
            step.given_up = None
            if step.parent is not None:
                step.parent.num_dead_children -= 1

    def _release(self, kept_ids: Iterable[str], given_up: GivenUp) -> None:
        kept = {id(step) for node_id in kept_ids if node_id in self.branches for step in self.branches[node_id].path()}
        dropped = [leaf for leaf in self._open.values() if id(leaf) not in kept]
        for leaf in dropped:
            self._count(leaf, leaves=0, opened=-1)
            del self._open[leaf.node.id]
            self._give_up(leaf, given_up, kept)
        for branch in [branch for branch in self._childless.values() if id(branch) not in kept]:
            if branch.num_dead_children == branch.num_children:
                self._give_up(branch, given_up, kept)
            self._childless.pop(branch.node.id, None)
        self._num_given_up += len(dropped)
        self._is_search |= bool(dropped)
        before = {} if self.last_choice is None or self._has_grown else self.last_choice.reasons
        count = {given_up.reason: before.get(given_up.reason, 0) + len(dropped)} if dropped else {}
        self.last_choice = Choice(len(self._open), before | count)
        self._has_grown = False

    def _give_up(self, branch: Branch, given_up: GivenUp, kept: set[int]) -> None:
        """Gives up a branch, and those above it of which nothing is left."""
        for step in branch.path():
            if step.parent is None or step.given_up is not None or step.num_dead_children < step.num_children:
                return
            if id(step) in kept:
                self._childless[step.node.id] = step
                return
            step.given_up = given_up
            step.parent.num_dead_children += 1

    def _count(self, leaf: Branch, *, leaves: int, opened: int) -> None:
        """Adds to the trajectories on the way to ``leaf``, and to the KV tokens that they make."""
        for step in leaf.path():
            was_held = step.num_open > 0
            step.num_leaves += leaves
            step.num_open += opened
            self.logical_kv_tokens += leaves * step.tokens
            self._unshared_tokens += opened * step.tokens
            self._held_tokens += ((step.num_open > 0) - was_held) * step.tokens

    def _learn_length(self, root: Branch, num_tokens: int) -> None:
        root.tokens = num_tokens
        self.unique_kv_tokens += num_tokens
        self.logical_kv_tokens += root.num_leaves * num_tokens
        self._unshared_tokens += root.num_open * num_tokens
        self._held_tokens += (root.num_open > 0) * num_tokens


def kv_tokens(ends: Iterable[Branch]) -> tuple[int, int]:
    """KV tokens of the trajectories that end in ``ends``: (each prefix once, each trajectory with its own copy)."""
    held: dict[int, Branch] = {}
    unshared = 0
    for end in ends:
        for step in end.path():
            held[id(step)] = step
            unshared += step.tokens
    return sum(step.tokens for step in held.values()), unshared
