"""Several expansions at the same time, for instance of several models."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.actions import Cancel, Expand, Next, Samples, Start, Stream
from orchestrator.errors import BudgetExhausted, ContextOverflow, EngineFailed, TtcError
from orchestrator.policies.search.stepping import Steps
from orchestrator.tree import Node

_LEAVES_THE_OTHERS = (BudgetExhausted, ContextOverflow, EngineFailed)
"""What may go wrong with one expansion without being wrong with the others."""


def together(expands: Sequence[Expand]) -> Steps[list[Sequence[Node]]]:
    """Carries expansions out side by side; the new nodes of each, in order.

    Args:
        expands: At least one.

    Raises:
        TtcError: What the first of them failed with, if none has given a single node. One that fails beside others
            gives none.
    """
    if len(expands) == 1:
        samples: Samples = yield expands[0]
        return [samples.nodes]
    first_error: TtcError | None = None
    streams: list[Stream | None] = []
    for expand in expands:
        try:
            stream: Stream = yield Start(expand, parallel=max(1, sum(expand.counts())))
            streams.append(stream)
        except _LEAVES_THE_OTHERS as error:
            first_error = first_error or error
            streams.append(None)
    found: list[Sequence[Node]] = []
    for opened in streams:
        nodes: list[Node] = []
        if opened is not None:
            try:
                while (node := (yield Next(opened))) is not None:
                    nodes.append(node)
            except _LEAVES_THE_OTHERS as error:
                first_error = first_error or error
                yield Cancel(opened)
        found.append(nodes)
    if first_error is not None and not any(found):
        raise first_error
    return found
