"""The verdict on a job: from how its policy's part ended to its state, its stop reason and its result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.actions import Answer
from orchestrator.controller.context import Interruption, RunContext
from orchestrator.errors import BudgetExhausted, TtcError
from orchestrator.job import Result, StopReason
from orchestrator.store import JobState
from orchestrator.tree import Node, path_tokens


@dataclass(frozen=True, slots=True)
class Ending:
    """How the policy's part of the job ended.

    Attributes:
        answer: The policy's, else the best so far.
        error: What ended the policy, or went wrong after it.
        question: What a waiting job asks.
    """

    answer: Answer | None = None
    error: TtcError | None = None
    question: str | None = None


def result_of(run: RunContext, ending: Ending, *, is_late: bool) -> Result:
    """What the job hands back, with everything that was counted.

    Args:
        run: The job.
        ending: How its policy's part ended.
        is_late: The answer was stated in the time kept back before the deadline.
    """
    answer = ending.answer or Answer(None)
    unique, logical = run.tree.kv_tokens(run.root_tokens)
    usage = replace(
        run.usage,
        wall_s=round(run.elapsed_s, 4),
        unique_kv_tokens=unique,
        logical_kv_tokens=logical,
        max_sequential_tokens=path_tokens(run.tree.leaves()),
        peak_parallel_sequences=max(run.usage.peak_parallel_sequences, run.peak_sequences),
    )
    state, reason, error = _verdict(ending, run.interruption, is_late=is_late)
    committed = run.tree.nodes.get(run.committed or "")
    return Result(
        job_id=run.job_id,
        state=state,
        answer=answer,
        stop_reason=reason,
        limited_by=run.limited_by,
        usage=usage,
        budget=run.spec.budget,
        tree=run.tree,
        error=error,
        question=ending.question,
        num_samples=run.num_samples,
        committed_text=_text_after(run.tree.leaves(), committed),
    )


def _verdict(
    ending: Ending, interruption: Interruption | None, *, is_late: bool
) -> tuple[JobState, StopReason, TtcError | None]:
    if ending.question is not None:
        return JobState.WAITING, StopReason.WAITING, None
    if interruption is not None and interruption.reason is StopReason.CANCELLED:
        return JobState.CANCELLED, StopReason.CANCELLED, None
    error = ending.error
    if interruption is not None and interruption.reason is StopReason.FAILED:
        return JobState.FAILED, StopReason.FAILED, error or interruption.error
    is_budget = isinstance(error, BudgetExhausted)
    if error is not None and not (is_budget and ending.answer is not None):
        return JobState.FAILED, StopReason.FAILED, error
    if interruption is not None:
        return JobState.SUCCEEDED, interruption.reason, None
    if is_late:
        return JobState.SUCCEEDED, StopReason.DEADLINE, None
    if is_budget:
        ran_out_of_time = isinstance(error, BudgetExhausted) and error.limit == "max_seconds"
        return JobState.SUCCEEDED, StopReason.DEADLINE if ran_out_of_time else StopReason.BUDGET, None
    return JobState.SUCCEEDED, StopReason.COMPLETED, None


def _text_after(leaves: list[Node], committed: Node | None) -> str | None:
    """The text from the committed node on, along its first leaf."""
    if committed is None:
        return None
    for leaf in leaves:
        if committed in leaf.path():
            return leaf.trajectory
    return None
