"""Has a language model judge partial solutions, in conversations on the side: by votes or one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.actions import Expand, Samples
from orchestrator.engine import Message
from orchestrator.errors import ContextOverflow
from orchestrator.policies.search.stepping import Steps
from orchestrator.policy import PolicyContext, Query
from orchestrator.tree import Node

Judging = Literal["vote", "value"]

VOTE = """\
Below are a problem and {num} attempts at it. Each is a solution or only the beginning of one. Decide which attempt is \
the most promising: its steps so far are right, and they lead to what the problem asks for. An attempt is no worse for \
being unfinished, and no better for being longer or more confident.

[Problem]
{problem}

{attempts}

Compare the attempts in a few sentences. Then end with one line that names exactly one of them, in this form:
Best attempt: <number>"""

VALUE = """\
Below are a problem and an attempt at it, which is a solution or only the beginning of one. Judge whether it leads to \
a correct solution.

[Problem]
{problem}

[Attempt]
{attempt}

Check its steps in a few sentences. Then end with one line that holds exactly one of three words: sure (every step is \
right, and so is the way it takes), likely (nothing is wrong as far as you can see) or impossible (a step is wrong, or \
it leads nowhere). Write that line in this form:
Verdict: <word>"""

VALUES: Mapping[str, float] = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}
"""What verdicts are worth; their order is that of Yao et al., 2023, their size is ours."""

_VOTE = re.compile(r"\bbest\s+(?:attempt|choice|option|one)\b[^\n\d]{0,20}(\d+)", re.IGNORECASE)
_BARE_VOTE = re.compile(r"\W*(?:(?:attempt|choice|option|number)\W*)?(\d+)\W*", re.IGNORECASE)
_VERDICT = re.compile(r"\bverdict\b\W*(?:is\W+)?(sure|likely|impossible)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SelfJudge:
    """A model as the judge of attempts.

    Attributes:
        query: The query.
        ctx: For conversations of its own, and for chance. Any: parameters differ by policy.
        ask: The expansion that asks in conversations, each as often as given.
        num_votes: Votes of one comparison, or verdicts on one attempt.
    """

    query: Query
    ctx: PolicyContext[Any]
    ask: Callable[[Sequence[Node], int], Expand]
    num_votes: int

    def votes(self, nodes: Sequence[Node]) -> Steps[list[float | None]]:
        """Shares of the votes for the most promising of several attempts.

        Each voter sees them in an order of its own, since models favour places. Voters that name none do not count;
        shares are missing if none counts, and of a single attempt, which has no rivals.
        """
        missing: list[float | None] = [None] * len(nodes)
        if len(nodes) < 2:
            return missing
        orders = {self._ballot(order, nodes): order for order in self._orders(len(nodes))}
        replies = yield from self._replies(list(orders), 1)
        cast = Counter(
            orders[root][number - 1]
            for root, text in replies
            if (number := read_vote(text, num_attempts=len(nodes))) is not None
        )
        total = cast.total()
        return [cast[index] / total for index in range(len(nodes))] if total else missing

    def values(self, nodes: Sequence[Node]) -> Steps[list[float | None]]:
        """The mean verdict on each attempt; missing where no verdict can be read."""
        roots = [
            self.ctx.new_root(
                [Message("user", VALUE.format(problem=self.query.problem, attempt=node.trajectory.strip()))]
            )
            for node in nodes
        ]
        verdicts: dict[Node, list[float]] = {root: [] for root in roots}
        replies = yield from self._replies(roots, self.num_votes)
        for root, text in replies:
            if (value := read_verdict(text)) is not None:
                verdicts[root].append(value)
        return [sum(known) / len(known) if known else None for known in verdicts.values()]

    def _orders(self, num_attempts: int) -> list[list[int]]:
        return [[int(index) for index in self.ctx.rng.permutation(num_attempts)] for _ in range(self.num_votes)]

    def _ballot(self, order: Sequence[int], nodes: Sequence[Node]) -> Node:
        attempts = "\n\n".join(
            f"[Attempt {number}]\n{nodes[index].trajectory.strip()}" for number, index in enumerate(order, start=1)
        )
        question = VOTE.format(num=len(nodes), problem=self.query.problem, attempts=attempts)
        return self.ctx.new_root([Message("user", question)])

    def _replies(self, roots: Sequence[Node], count: int) -> Steps[list[tuple[Node, str]]]:
        """What is said in conversations, with their roots; nothing if what is to be judged is too long to be read."""
        try:
            samples: Samples = yield self.ask(roots, count)
        except ContextOverflow:
            return []
        return [(node.root, node.text) for node in samples]


def read_vote(text: str, *, num_attempts: int) -> int | None:
    """The attempt that a reply names as the best, from 1; None if it names none, or one that does not exist."""
    stated = _VOTE.findall(text)
    if not stated:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        bare = _BARE_VOTE.fullmatch(last)
        stated = [bare[1]] if bare else []
    if not stated or len(stated[-1]) > len(str(num_attempts)):
        return None
    number = int(stated[-1])
    return number if 1 <= number <= num_attempts else None


def read_verdict(text: str) -> float | None:
    """What the verdict of a reply is worth, in [0, 1]; None if it has none."""
    stated = _VERDICT.findall(text)
    if not stated:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        stated = [last.strip(" \t*_`\"'.!:")]
    return VALUES.get(stated[-1].lower())
