"""Budget forcing: make one chain of thought longer by not letting it stop, or end it when its tokens are used up."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from pydantic import Field

from orchestrator.actions import Answer, Conclude, Expand, Propose, Samples
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policy import Policy, PolicyContext, Query, policy
from orchestrator.tree import Node


class BudgetForcingParams(SampleParams):
    """Parameters of `budget_forcing`."""

    temperature: float | None = Field(0.0, ge=0, le=5, description="0 is greedy, as in s1; null takes the job's")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of the reply after the end of thinking")
    max_thinking_tokens: int = Field(2048, ge=1, description="Most tokens of thought in all rounds together")
    num_ignores: int = Field(2, ge=0, le=32, description="How often the end of the thought is ignored")
    wait: str = Field("\nWait", min_length=1, description="Put in place of the end that is ignored")
    end_of_thinking: str | None = Field(
        None, min_length=1, description='Delimiter between thought and reply, for instance "</think>"; null if none'
    )


class _Resumption(NamedTuple):
    """Where a thought goes on, and what is put after that node first."""

    node: Node
    forced: str


@policy("budget_forcing", params=BudgetForcingParams, source="Muennighoff et al., 2025 (s1), arXiv:2501.19393")
def budget_forcing(query: Query, ctx: PolicyContext[BudgetForcingParams]) -> Policy:
    """One chain of thought that is told to wait whenever it ends too early, and to conclude when it is too long.

    For models without a delimiter after their thought, its end is the end of their turn, and each round is a whole
    reply; the last round's answer counts. With a delimiter, the ignored one is dropped, as in s1: a node ends
    *after* its delimiter and nodes are immutable, so the thought up to the delimiter is forced under the same parent
    again (prefix caches make that cheap; only the forced text is encoded anew). There is no confidence.
    """
    params = ctx.params
    answer = Answer(None)
    thought, forced, num_tokens_left = query.root, "", params.max_thinking_tokens
    for num_ignored in range(params.num_ignores + 1):
        samples: Samples = yield _thinking(thought, forced, num_tokens_left, params)
        if not samples:
            return answer
        sample: Node = samples[0]
        num_tokens_left -= sample.output_tokens
        answer = _latest(sample, answer)
        if answer.text is not None:
            yield Propose(answer)
        ended_by_itself = sample.finish in {FinishReason.END, FinishReason.STOP}
        if not ended_by_itself or num_tokens_left <= 0 or num_ignored == params.num_ignores:
            break
        thought, forced = _without_end(sample, params)
    return (yield from _reply(query, params, sample, answer))


def _thinking(thought: Node, forced: str, max_tokens: int, params: BudgetForcingParams) -> Expand:
    stop = () if params.end_of_thinking is None else (params.end_of_thinking,)
    return replace(params.expand([thought], 1), max_tokens=max_tokens, stop=stop, forced=forced)


def _without_end(sample: Node, params: BudgetForcingParams) -> _Resumption:
    """How to go on as if the thought had not ended."""
    delimiter = params.end_of_thinking
    if delimiter is None or sample.finish is not FinishReason.STOP or sample.parent is None:
        return _Resumption(sample, params.wait)  # an end-of-turn token is no part of a node
    return _Resumption(sample.parent, sample.text[: sample.text.rfind(delimiter)] + params.wait)


def _reply(query: Query, params: BudgetForcingParams, thought: Node, answer: Answer) -> Policy:
    """Closes the thought, where it has a delimiter, for the reply; asks for the answer if that gives none."""
    last = thought
    if params.end_of_thinking is not None and thought.finish is not FinishReason.END:
        closing = "" if thought.finish is FinishReason.STOP else params.end_of_thinking
        try:
            samples: Samples = yield replace(params.expand([thought], 1), forced=closing)
        except BudgetExhausted:
            samples = Samples((), num_requested=1)
        if samples:
            last = samples[0]
            answer = _latest(last, answer)
    if query.cue and (last.is_cut or last.answer is None):
        try:
            last = yield Conclude(last, model=params.model)
        except BudgetExhausted:
            return answer
        answer = _latest(last, answer)
    return answer


def _latest(sample: Node, answer: Answer) -> Answer:
    """The sample's answer; if it has none, the earlier one."""
    return answer if sample.answer is None and answer.text is not None else Answer(sample.answer, sample)
