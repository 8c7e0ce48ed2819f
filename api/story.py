"""What happened in a job, read from its record and its journal: the tree, the votes, the actions in time.

Needs no model and no replay, so it works for unfinished jobs and for those whose policy has changed since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.api.growth import Frame, Growth
from orchestrator.api.levels import Level, LevelCosts
from orchestrator.job import JobSpec, Result, stored_result
from orchestrator.store import JobRecord, JournalRow
from orchestrator.tree import Node, Tree
from orchestrator.usage import Usage

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionNote:
    """One action of the policy.

    Attributes:
        position: Its number.
        type: ``Expand``, ``Score``, ...
        words: What was asked for, in a few words.
        start_s: On the job's clock: when the action before it was done.
        end_s: When it was done; None if it was under way when the journal ends.
        num_samples: Samples paid for.
        output_tokens: Sampled for it.
        error: What the policy was told instead of an outcome.
    """

    position: int
    type: str
    words: str
    start_s: float
    end_s: float | None
    num_samples: int = 0
    output_tokens: int = 0
    error: str | None = None

    def to_json(self) -> Json:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Vote:
    """An answer and how many samples gave it."""

    answer: str
    num_samples: int
    is_chosen: bool

    def to_json(self) -> Json:
        """JSON values."""
        return asdict(self)


class JobStory:
    """A job as it can be shown.

    Args:
        record: From the store.
        rows: Its journal.

    Attributes:
        tree: All nodes and their last scores.
        growth: When each node was there, and when and why it was given up.
        actions: In order.
        frames: The tree after each action that was done, in order.
        scored: By node and verifier: (number of the action, score), in order.
    """

    def __init__(self, record: JobRecord, rows: Sequence[JournalRow]) -> None:
        self.record = record
        self.rows = rows
        self.spec = JobSpec.from_json(record.spec)
        self.result: Result | None = stored_result(record)
        self.tree = _tree(self.spec, rows)
        self.actions = list(_actions(rows))
        self.growth = Growth()
        self.frames: list[Frame] = []
        self.scored: dict[str, dict[str, list[tuple[int, float]]]] = {}
        self._costs = LevelCosts(self.growth)
        for row in rows:
            self._read(row)

    def _read(self, row: JournalRow) -> None:
        self.growth.take(row.kind, row.data)
        self._costs.take(row)
        if row.kind == "done":
            self.frames.append(self.growth.frame())
            for node, verifier, score in _scores(row.data):
                self.scored.setdefault(node, {}).setdefault(verifier, []).append((row.data["a"], score))

    def levels(self) -> list[Level]:
        """What each level of the tree has cost."""
        return self._costs.levels()

    @property
    def usage(self) -> Usage:
        """Spent so far."""
        if self.result is not None:
            return self.result.usage
        return sum((Usage.from_json(row.data["usage"]) for row in self.rows if "usage" in row.data), Usage())

    @property
    def chosen(self) -> Node | None:
        """The node whose trajectory states the answer."""
        return self.tree.nodes.get((self.record.result or {}).get("node", ""))

    def votes(self) -> list[Vote]:
        """Answers by the number of nodes that state them, most first."""
        counts: dict[str, int] = {}
        for node in self.tree:
            if node.answer is not None:
                name = node.answer_class or node.answer
                counts[name] = counts.get(name, 0) + 1
        chosen = self.chosen
        winner = None if chosen is None else chosen.answer_class or chosen.answer
        ordered = sorted(counts.items(), key=lambda item: item[1], reverse=True)
        return [Vote(answer, count, answer == winner) for answer, count in ordered]

    def to_json(self) -> Json:
        """The record, the result, the votes, the actions and the tree as JSON values."""
        return {
            "id": self.record.id,
            "state": self.record.state.value,
            "created_at": self.record.created_at,
            "updated_at": self.record.updated_at,
            "spec": self.record.spec,
            "result": self.record.result,
            "usage": self.usage.to_json(),
            "votes": [vote.to_json() for vote in self.votes()],
            "actions": [note.to_json() for note in self.actions],
            "levels": [level.to_json() for level in self.levels()],
            "tree": [self._node_json(data) for data in self.tree.to_json()],
        }

    def _node_json(self, node: Json) -> Json:
        given_up = self.growth.branches[node["id"]].given_up
        return node if given_up is None else {**node, "given_up": given_up._asdict()}


def _tree(spec: JobSpec, rows: Sequence[JournalRow]) -> Tree:
    tree = Tree(Node(id="0", messages=spec.messages))
    classes = _classes(rows)
    for row in rows:
        for root in row.data.get("roots", ()):
            tree.add(Node.from_json(root, {}))
        node_data = row.data.get("node") if row.kind == "sample" else row.data.get("outcome", {}).get("node")
        if isinstance(node_data, dict):
            node = Node.from_json(node_data, tree.nodes)
            tree.add(replace(node, answer_class=classes.get(node.id, node.answer_class)))
        if row.kind == "done":
            for node_id, verifier, score in _scores(row.data):
                if node_id in tree:
                    tree.record_score(tree[node_id], verifier, score)
    return tree


def _classes(rows: Sequence[JournalRow]) -> dict[str, str | None]:
    """Classes of answers by node, as they were told to the policy."""
    classes: dict[str, str | None] = {}
    for row in rows:
        if row.kind != "done":
            continue
        outcome = row.data["outcome"]
        if "units" in outcome:
            classes |= {f"{row.data['a']}.{unit}": name for unit, name in outcome["units"]}
        elif outcome.get("unit") is not None:
            position = row.data["action"].get("stream", row.data["a"])
            classes[f"{position}.{outcome['unit']}"] = outcome.get("class")
    return classes


def _scores(done: Json) -> Iterator[tuple[str, str, float]]:
    """Scores that an action gave: (node, verifier, score)."""
    action = done["action"]
    if action["type"] == "Score":
        for node_id, score in zip(action["nodes"], done["outcome"].get("scores", ()), strict=False):
            if score is not None:
                yield node_id, action["verifier"], score


def _actions(rows: Sequence[JournalRow]) -> Iterator[ActionNote]:
    """Actions in order; costs are gathered from all rows of an action."""
    begun: dict[int, tuple[Json, float]] = {}
    done: dict[int, Json] = {}
    samples: dict[int, int] = {}
    tokens: dict[int, int] = {}
    now = 0.0
    for row in rows:
        position = row.data.get("a")
        if position is None:
            continue
        if "action" in row.data:
            begun.setdefault(position, (row.data["action"], now))
        if row.kind == "sample":
            samples[position] = samples.get(position, 0) + 1
        tokens[position] = tokens.get(position, 0) + row.data.get("usage", {}).get("output_tokens", 0)
        if row.kind == "done":
            done[position] = row.data
        now = max(now, row.data.get("t", 0.0))
    for position, (action, start_s) in sorted(begun.items()):
        data = done.get(position)
        yield ActionNote(
            position=position,
            type=action["type"],
            words=action_words(action),
            start_s=start_s,
            end_s=None if data is None else max(start_s, data["t"]),
            num_samples=samples.get(position, 0),
            output_tokens=tokens.get(position, 0),
            error=None if data is None or "error" not in data else data["error"]["message"],
        )


def action_words(action: Json) -> str:
    """What an action, encoded as in the journal, asks for, in a few words."""
    match action:
        case {"type": "Expand"}:
            return _expand_words(action)
        case {"type": "Start", "expand": expand, "parallel": parallel}:
            return f"{_expand_words(expand)}, {parallel} at a time"
        case {"type": "Score", "nodes": nodes, "verifier": verifier}:
            return f"{len(nodes)} by {verifier}"
        case {"type": "Embed", "nodes": nodes}:
            return f"{len(nodes)} texts"
        case {"type": "Propose", "answer": {"text": text}}:
            return str(text)
        case {"type": "Release", "all_but": kept, **rest}:
            return f"all but {len(kept)}" + (f": {rest['reason']}" if rest.get("reason") else "")
        case {"type": "CallTool", "name": name}:
            return str(name)
        case {"type": "Compute", "fn": fn}:
            return str(fn)
        case {"type": "AskHuman", "question": question}:
            return str(question)
        case {"type": "Next" | "Cancel", "stream": stream}:
            return f"of action {stream}"
        case {"node": node}:
            return f"node {node}"
        case _:
            return ""


def _expand_words(expand: Json) -> str:
    total, nodes = sum(expand["num_samples"]), expand["nodes"]
    samples = "1 sample" if total == 1 else f"{total} samples"
    of = f"node {nodes[0]}" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"{samples} of {of} by {expand['model']}"
