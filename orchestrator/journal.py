"""The journal of a job: which facts are written, how actions are encoded, and how they are read back for replay.

Rows are JSON values. The kinds, each with its data:

    begin     {a, action, roots}            the policy asked for action number a; work on it may start
    dispatch  {a, r, units, grants, before, prompt, reserved}   request r is about to be sent, with this much reserved
    mark      {a, r, prompt, tokens, t}     how far request r had come: prompt tokens read, tokens by unit
    sample    {a, i, node, usage, failed, prompt}
                                            unit i of action a is finished and paid for; `failed` is why it has no node;
                                            `prompt` is the length of the conversation that it is a reply to
    done      {a, action, outcome, t, usage, limited}
                                            what the policy was sent (or `error`, what was thrown into it); what it
                                            cost beside samples; the first cap that has bound so far
    lost      {usage, requests}             paid for by a controller that died, and gone
    final     {result, t, ended}            the job's end; `ended` if the controller ended the policy: {a, error}

``t`` is the job's own clock: seconds it has run, over all its lives. Free actions have only a ``done`` row.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from orchestrator.actions import (
    Action,
    Answer,
    AskHuman,
    CallTool,
    Commit,
    Compute,
    Conclude,
    Embed,
    Expand,
    Propose,
    Release,
    Score,
    Start,
)
from orchestrator.errors import ReplayDiverged
from orchestrator.isolation import importable_name
from orchestrator.store import JournalRow
from orchestrator.tree import Node
from orchestrator.usage import Usage

MARK_TOKENS = 16
"""A progress mark is written once a sample has this many tokens that no mark covers."""
MARK_SECONDS = 0.5
"""And at most this long after the last one, while tokens come in."""
LOST_ALLOWANCE_TOKENS = 64
"""What an unsettled sample is charged beyond its last mark: what came in after it, and what the engine ran ahead."""

Json = dict[str, Any]  # Any: JSON values


def encode_action(action: Action) -> Json:
    """The action as JSON values; equal actions give equal encodings, so a replay can compare them."""
    data: Json = {"type": type(action).__name__}
    match action:
        case Expand():
            data |= _encode_expand(action)
        case Start(expand, parallel, order):
            data |= {"expand": _encode_expand(expand), "parallel": parallel, "order": order}
        case Score(nodes, verifier):
            data |= {"nodes": _ids(nodes), "verifier": verifier}
        case Embed(nodes, model):
            data |= {"nodes": _ids(nodes), "model": model}
        case Release(all_but, reason):
            data |= {"all_but": _ids(all_but)} | ({"reason": reason} if reason else {})
        case Propose(answer):
            data |= {"answer": encode_answer(answer)}
        case Commit(node):
            data |= {"node": node.id}
        case Conclude(node, model):
            data |= {"node": node.id, "model": model}
        case Compute(fn, args):
            data |= {"fn": importable_name(fn) or repr(fn), "args": list(args)}
        case CallTool(node, name, arguments):
            data |= {"node": node.id, "name": name, "arguments": dict(arguments)}
        case AskHuman(question):
            data |= {"question": question}
        case _:  # Next, Cancel
            data |= {"stream": action.stream.id}
    return data


def roots_of(action: Action) -> list[Json]:
    """Conversations the policy has opened itself and uses in this action."""
    nodes: Sequence[Node] = ()
    match action:
        case Expand(nodes) | Start(Expand(nodes)) | Score(nodes) | Embed(nodes):
            pass
        case Conclude(node) | Commit(node):
            nodes = (node,)
    return [root.to_json() for root in {node.root.id: node.root for node in nodes}.values() if root.id != "0"]


def encode_answer(answer: Answer) -> Json:
    """An answer as JSON values."""
    data: Json = {"text": answer.text, "node": answer.node.id if answer.node else None}
    if answer.confidence is not None:
        data |= {"confidence": answer.confidence, "confidence_kind": answer.confidence_kind}
    if answer.alternatives:
        data["alternatives"] = [list(pair) for pair in answer.alternatives]
    return data


def decode_answer(data: Json, nodes: Mapping[str, Node]) -> Answer:
    """The inverse of `encode_answer`."""
    return Answer(
        text=data["text"],
        node=nodes.get(data["node"] or ""),
        confidence=data.get("confidence"),
        confidence_kind=data.get("confidence_kind"),
        alternatives=tuple((text, share) for text, share in data.get("alternatives", ())),
    )


def digest(encoded: Json) -> str:
    """A short hash of an encoded action."""
    return hashlib.blake2b(json.dumps(encoded, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _encode_expand(action: Expand) -> Json:
    data: Json = {"nodes": _ids(action.nodes), "num_samples": list(action.counts()), "model": action.model}
    if action.sampling is not None:
        data["sampling"] = {item.name: getattr(action.sampling, item.name) for item in fields(action.sampling)}
    if action.monitors:
        data["monitors"] = [{"name": monitor.name, **asdict(monitor)} for monitor in action.monitors]  # type: ignore[call-overload]  # monitors are dataclasses
    for name in ("max_tokens", "forced", "num_logprobs"):
        if value := getattr(action, name):
            data[name] = value
    if action.stop:
        data["stop"] = list(action.stop)
    return data


def _ids(nodes: Iterable[Node]) -> list[str]:
    return [node.id for node in nodes]


@dataclass(slots=True)
class OpenRequest:
    """A request that was dispatched and whose units have not all been settled."""

    data: Json
    mark: Json = field(default_factory=dict)


@dataclass(slots=True)
class RecordedAction:
    """What the journal holds about one action."""

    action: Json | None = None
    done: Json | None = None
    samples: dict[int, Json] = field(default_factory=dict)
    requests: dict[str, OpenRequest] = field(default_factory=dict)


class Recording:
    """A journal, read back: the actions in order, what was paid, and what was in flight when it ends."""

    def __init__(self, rows: Iterable[JournalRow] = ()) -> None:
        self.actions: dict[int, RecordedAction] = defaultdict(RecordedAction)
        self.usage = Usage()
        self.elapsed_s = 0.0
        self.next_seq = 0
        self.final: Json | None = None
        self._closed: set[str] = set()
        for row in rows:
            self._read(row)

    def _read(self, row: JournalRow) -> None:
        data = row.data
        self.next_seq = row.seq + 1
        self.elapsed_s = max(self.elapsed_s, data.get("t", 0.0))
        if "usage" in data:
            self.usage += Usage.from_json(data["usage"])
        if row.kind == "lost":
            self._closed.update(data["requests"])
        elif row.kind == "final":
            self.final = data
        else:
            self._read_action(row.kind, data)

    def _read_action(self, kind: str, data: Json) -> None:
        recorded = self.actions[data["a"]]
        if kind == "begin":
            recorded.action = data["action"]
        elif kind == "dispatch":
            recorded.requests[data["r"]] = OpenRequest(data)
        elif kind == "mark":
            recorded.requests[data["r"]].mark = data
        elif kind == "sample":
            recorded.samples[data["i"]] = data
        elif kind == "done":
            recorded.action = recorded.action or data["action"]
            recorded.done = data

    def check(self, position: int, encoded: Json) -> RecordedAction | None:
        """What the journal holds about the action at ``position``; None past its end.

        Raises:
            ReplayDiverged: The journal says the policy asked for something else there.
        """
        recorded = self.actions.get(position)
        if recorded is None:
            return None
        if recorded.action is not None and digest(recorded.action) != digest(encoded):
            raise ReplayDiverged(
                f"action {position} differs from the journal: it recorded {_brief(recorded.action)}, the policy now "
                f"asks for {_brief(encoded)}; the policy or its parameters changed (run the job anew to use them)",
                position=position,
            )
        return recorded

    def open_requests(self) -> list[tuple[int, OpenRequest, list[int]]]:
        """Requests in flight when the journal ends: (action, request, units without a result).

        A unit that was sent again after a failure belongs to its last request, which knows what came before.
        """
        found: list[tuple[int, OpenRequest, list[int]]] = []
        for position, recorded in self.actions.items():
            last = {unit: key for key, request in recorded.requests.items() for unit in request.data["units"]}
            for request_id, request in recorded.requests.items():
                mine = [unit for unit in request.data["units"] if last[unit] == request_id]
                units = [unit for unit in mine if unit not in recorded.samples]
                is_scoring = not request.data["units"] and recorded.done is None
                if (units or is_scoring) and request_id not in self._closed:
                    found.append((position, request, units))
        return found


def _brief(encoded: Json) -> str:
    text = json.dumps(encoded, default=str)
    return text if len(text) <= 160 else text[:157] + "..."


__all__ = [
    "LOST_ALLOWANCE_TOKENS",
    "MARK_SECONDS",
    "MARK_TOKENS",
    "Json",
    "OpenRequest",
    "RecordedAction",
    "Recording",
    "decode_answer",
    "digest",
    "encode_action",
    "encode_answer",
    "roots_of",
]
