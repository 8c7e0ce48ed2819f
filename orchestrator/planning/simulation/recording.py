"""Takes the shapes of jobs down while engines are called for them; gives trees and pieces of text their numbers.

Numbers are handed out in the order in which things are first met, so that a simulation is the same in every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

from orchestrator.planning.simulation.shapes import CallShape, JobShape
from orchestrator.planning.simulation.work import Call, Prefix


class Reply(NamedTuple):
    """A conversation with a partial reply, as pieces.

    Attributes:
        prefix: The conversation, then the reply's spans.
        texts: The reply up to each piece's end, beginning with the empty one of the conversation.
    """

    prefix: Prefix
    texts: tuple[str, ...]


@dataclass(slots=True)
class _Tree:
    """One job's calls so far."""

    number: int
    calls: list[tuple[CallShape, Call]] = field(default_factory=list)
    num_sequences: int = 0
    num_ended: int = 0
    pieces: dict[bytes, int] = field(default_factory=dict)
    writers: dict[bytes, int] = field(default_factory=dict)  # conversation and reply -> the sequence that ended there


class Recorder:
    """See the module."""

    def __init__(self) -> None:
        self._trees: dict[str, _Tree] = {}
        self._num_trees = 0
        self._num_pieces = 0

    def tree(self, tree_id: str) -> int:
        """The tree's number, from 1."""
        return self._tree(tree_id).number

    def reply(self, tree_id: str, conversation: bytes, num_tokens: int, spans: Sequence[tuple[str, int]]) -> Reply:
        """A prompt as pieces.

        Args:
            tree_id: The job; no two jobs share a piece.
            conversation: Names what was said so far.
            num_tokens: Its length.
            spans: Texts of the partial reply, and their tokens.
        """
        root = self._piece(tree_id, conversation)
        prefix: list[tuple[int, int]] = [(root, num_tokens)]
        texts = [""]
        for text, tokens in spans:
            if tokens:
                prefix.append((self.next_piece(tree_id, prefix[-1][0], text), tokens))
                texts.append(texts[-1] + text)
        return Reply(tuple(prefix), tuple(texts))

    def next_piece(self, tree_id: str, before: int, text: str) -> int:
        """The piece of a text that comes after a piece."""
        return self._piece(tree_id, _digest(before, text))

    def called(self, tree_id: str, role: str, reply: Reply, call: Call, said: Sequence[str]) -> None:
        """A call is being made.

        Args:
            tree_id: The job.
            role: Which model.
            reply: What the call continues.
            call: The call.
            said: What each of its sequences will have said if it is not cancelled; empty for calls that only read.
        """
        tree = self._tree(tree_id)
        root = reply.prefix[0][0]
        parent, place = -1, 0
        for at in range(len(reply.texts) - 1, 0, -1):
            writer = tree.writers.get(_digest(root, reply.texts[at]))
            if writer is not None:
                parent, place = writer, at + 1
                break
        rest = reply.prefix[place:]
        for index, text in enumerate(said):
            tree.writers.setdefault(_digest(root, reply.texts[-1] + text), tree.num_sequences + index)
        shape = CallShape(
            role=role,
            after=tree.num_ended,
            parent=parent,
            prompt_tokens=sum(tokens for _, tokens in rest),
            piece=rest[-1][0] if rest else 0,
            outputs=tuple(sequence.output_tokens for sequence in call.sequences),
        )
        tree.calls.append((shape, call))
        tree.num_sequences += len(call.sequences)

    def ended(self, tree_id: str) -> None:
        """One of the tree's sequences has ended."""
        self._tree(tree_id).num_ended += 1

    def take(self, tree_id: str, policy: str) -> JobShape:
        """The shape of the tree's job, which is forgotten; cancelled sequences are as long as they got."""
        tree = self._trees.pop(tree_id)
        calls = []
        for shape, call in tree.calls:
            outputs = tuple(
                max(1, sequence.num_written) if sequence.is_cancelled else sequence.output_tokens
                for sequence in call.sequences
            )
            calls.append(replace(shape, outputs=outputs))
        return JobShape(policy=policy, calls=tuple(calls))

    @property
    def tree_ids(self) -> tuple[str, ...]:
        """Of the trees that are known, in order."""
        return tuple(self._trees)

    def _tree(self, tree_id: str) -> _Tree:
        tree = self._trees.get(tree_id)
        if tree is None:
            self._num_trees += 1
            tree = self._trees[tree_id] = _Tree(self._num_trees)
        return tree

    def _piece(self, tree_id: str, digest: bytes) -> int:
        pieces = self._tree(tree_id).pieces
        number = pieces.get(digest)
        if number is None:
            self._num_pieces += 1
            number = pieces[digest] = self._num_pieces
        return number


def _digest(before: int, text: str) -> bytes:
    return blake2b(f"{before}:{text}".encode("utf-8", "replace"), digest_size=16).digest()
