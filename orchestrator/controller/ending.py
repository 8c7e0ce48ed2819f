"""Ends a job that is not run any further: its books are closed, and the best answer in its journal is its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.actions import Answer, Propose
from orchestrator.budget import UNLIMITED
from orchestrator.controller.best_so_far import majority, whole_text
from orchestrator.controller.context import Interruption, RunContext
from orchestrator.controller.past import account_for_the_past
from orchestrator.controller.verdict import Ending, result_of
from orchestrator.errors import BudgetExhausted, TtcError, UnknownName
from orchestrator.events import Event
from orchestrator.job import Result, StopReason
from orchestrator.journal import Json, Recording, decode_answer
from orchestrator.store import Claimed, JobState, JournalRow, Store
from orchestrator.tree import Node, Tree
from orchestrator.usage import Usage

_LOG = logging.getLogger(__name__)

CANCELLED = "cancelled"


def cancellation() -> BudgetExhausted:
    """What the policy of a cancelled job is told."""
    return BudgetExhausted(limit=CANCELLED, remaining=0, requested=0)


async def end_now(run: RunContext, rows: Sequence[JournalRow], error: TtcError | None) -> Result:
    """The result of a job whose journal is all there will be, stored.

    Args:
        run: The job, claimed.
        rows: Its journal.
        error: Why it failed; None if it was cancelled.

    Raises:
        LeaseLost, StoreFailed: It could not be stored.
    """
    try:
        await account_for_the_past(run)
    except UnknownName:  # of a model that this process has not: what was in flight cannot be priced
        _LOG.warning("what a job had in flight is not charged", extra={"job_id": run.job_id})
        run.usage = run.recording.usage
    await _recall_tree(run, rows)
    if error is None:
        run.interruption = Interruption(StopReason.CANCELLED, cancellation())
    answer = _proposal(run) or majority(run.tree) or whole_text(run.tree)
    result = result_of(run, Ending(answer=answer, error=error), is_late=False)
    done = [position for position, recorded in run.recording.actions.items() if recorded.done is not None]
    ended = {"a": max(done, default=-1) + 1, "error": (error or cancellation()).fields()}
    run.recorder.add("final", {**_final(run, result), "ended": ended})
    await run.recorder.flush(state=result.state, result=result.to_json())
    if run.publish is not None:
        run.publish(Event("result", {"result": result}))
    return result


async def end_unread(store: Store, claimed: Claimed, error: TtcError) -> Result:
    """Fails a job whose specification or journal cannot be understood here; costs nothing if its journal says nothing.

    Raises:
        LeaseLost, StoreFailed: It could not be stored.
    """
    record, epoch = claimed
    rows = await store.read(record.id)
    try:
        usage = Recording(rows).usage
    except Exception:  # noqa: BLE001  # rows that cannot be understood either
        _LOG.warning("what a job has cost cannot be read", extra={"job_id": record.id})
        usage = Usage()
    result = Result(
        job_id=record.id,
        state=JobState.FAILED,
        answer=Answer(None),
        stop_reason=StopReason.FAILED,
        usage=usage,
        budget=UNLIMITED,
        tree=Tree(Node(id="0")),
        error=error,
    )
    final = JournalRow(len(rows), "final", {"result": result.to_json(), "t": 0.0})
    await store.append(record.id, epoch, [final], state=result.state, result=result.to_json())
    return result


def final_of_cancelled(run: RunContext) -> Json:
    """Data of the ``final`` row of a job that was stopped where it stood and cannot be resumed."""
    run.interruption = Interruption(StopReason.CANCELLED, cancellation())
    return _final(run, result_of(run, Ending(answer=majority(run.tree)), is_late=False))


def _final(run: RunContext, result: Result) -> Json:
    return {"result": result.to_json(), "t": round(run.elapsed_s, 3)}


async def _recall_tree(run: RunContext, rows: Sequence[JournalRow]) -> None:
    """Puts what was paid for into the tree."""
    tree = run.tree
    for row in rows:
        found: list[Any] = list(row.data.get("roots", ()))  # Any: JSON values
        if row.kind == "sample":
            found.append(row.data.get("node"))
            run.num_samples += found[-1] is not None
        elif row.kind == "done":
            found.append(row.data.get("outcome", {}).get("node"))  # what a tool said, or the id of a stream's sample
        for data in found:
            if isinstance(data, dict) and data["id"] not in tree:
                node = Node.from_json(data, tree.nodes)
                if node.answer is not None:
                    node = replace(node, answer_class=await run.classes.classify(node.answer))
                tree.add(node)


def _proposal(run: RunContext) -> Answer | None:
    """The last answer that the policy proposed."""
    actions = run.recording.actions
    for position in sorted(actions, reverse=True):
        action = actions[position].action or {}
        if action.get("type") == Propose.__name__ and action["answer"]["text"] is not None:
            return decode_answer(action["answer"], run.tree.nodes)
    return None
