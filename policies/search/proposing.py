"""Has a language model list different next steps of a solution, in a conversation on the side."""

from __future__ import annotations

import re

from orchestrator.engine import Message
from orchestrator.policy import Query
from orchestrator.tree import Node

LIST = """\
Below are a problem and the beginning of a solution. Propose {num} different next steps, one of which will be chosen. \
A next step is one or two sentences that go on exactly where the solution stops. Make the steps as different from one \
another as you can: another idea, another case, another order. Do not carry them out to the end, do not repeat what \
is there already, and write nothing else.

[Problem]
{problem}

[Solution so far]
{attempt}

Write one step per line, numbered from 1 to {num}."""

_ITEM = re.compile(r"\s*(?:\(?\d{1,3}[.):]|[-*\u2022])\s+(\S.*)")


def asking_for_steps(query: Query, node: Node, num_steps: int) -> tuple[Message, ...]:
    """The conversation in which next steps of a trajectory are listed."""
    attempt = node.trajectory.strip() or "(nothing yet)"
    return (Message("user", LIST.format(num=num_steps, problem=query.problem, attempt=attempt)),)


def read_steps(text: str, *, num_steps: int) -> list[str]:
    """At most so many steps of a numbered or dashed list, all different, in order; none if there is no list."""
    items = [match[1].strip() for line in text.splitlines() if (match := _ITEM.fullmatch(line))]
    return list(dict.fromkeys(items))[:num_steps]
