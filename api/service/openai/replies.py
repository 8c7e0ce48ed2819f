"""From a job's end to what its client reads: the text of each choice, how it ended, and what all of it has cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.api.service.openai.json_schemas import fault_of
from orchestrator.engine import FinishReason
from orchestrator.errors import BudgetExhausted, NoAnswer
from orchestrator.isolation import KillablePool
from orchestrator.job import Result
from orchestrator.reply_form import ReplyForm, ToolCall
from orchestrator.tree import Node, Tree

Json = dict[str, Any]  # Any: JSON values
_CUT = frozenset({FinishReason.LENGTH, FinishReason.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One reply.

    Attributes:
        text: What was said: the whole reply, not only its final answer.
        finish: ``stop``, ``length`` or ``tool_calls``.
        answer: The final answer in it.
        share: Its share of the votes, or its score, where it is a rival of the first one.
        tool_calls: What it asks for.
        node: Where it ends in the tree; None for answers that no node states.
    """

    text: str
    finish: str
    answer: str | None = None
    share: float | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    node: Node | None = None


def choices_of(result: Result, form: ReplyForm, *, n: int, is_single: bool) -> list[Choice]:
    """Up to ``n`` choices, best first; with ``is_single`` the independent samples in their order.

    A job that was cut off before anything was finished still has its longest text, which ended by ``length``.

    Raises:
        TtcError: Why there is no reply at all.
    """
    found = _samples(result, form) if is_single and n > 1 else _ranked(result, form)
    if not found and (result.error is None or isinstance(result.error, NoAnswer | BudgetExhausted)):
        found = _partial(result.tree, form)
    if not found:
        raise result.error or NoAnswer("the job ended without any text", limited_by=result.limited_by)
    return found[:n]


def _ranked(result: Result, form: ReplyForm) -> list[Choice]:
    if result.answer.text is None:
        return []
    first = result.answer.node
    choices = [_choice(first, form, answer=result.answer.text)]
    voters = [node for node in result.tree if result.tree.answers_query(node)]
    by_answer = {node.answer: node for node in reversed(voters)}
    for answer, share in result.answer.alternatives:
        choices.append(_choice(by_answer.get(answer), form, answer=answer, share=share))
    return choices


def _samples(result: Result, form: ReplyForm) -> list[Choice]:
    """Replies to the conversation itself; what was added to one to state its answer belongs to it."""
    root = result.tree.root
    tops = [node for node in result.tree if node.parent is root]
    ends = {leaf.path()[1].id: leaf for leaf in result.tree.leaves() if leaf.root is root}
    return [_choice(ends.get(top.id, top), form, answer=top.answer) for top in sorted(tops, key=_order)]


def _order(node: Node) -> tuple[int, ...]:
    return tuple(int(part) for part in node.id.split(".") if part.isdigit())


def _partial(tree: Tree, form: ReplyForm) -> list[Choice]:
    texts = [leaf for leaf in tree.leaves() if leaf.trajectory and tree.answers_query(leaf)]
    if not texts:
        return []
    longest = max(texts, key=lambda leaf: leaf.trajectory_tokens)
    choice = _choice(longest, form, answer=None)
    return [choice if choice.finish == "tool_calls" else replace(choice, finish="length")]


def _choice(node: Node | None, form: ReplyForm, *, answer: str | None, share: float | None = None) -> Choice:
    if node is None:
        return Choice(text=answer or "", finish="stop", answer=answer, share=share)
    finish = "tool_calls" if node.tool_calls else "length" if node.finish in _CUT else "stop"
    text = node.trajectory.removeprefix(form.prefix)
    return Choice(text=text, finish=finish, answer=answer, share=share, tool_calls=node.tool_calls, node=node)


async def valid_choices(choices: Sequence[Choice], form: ReplyForm, pool: KillablePool) -> list[Choice]:
    """Those of the wanted schema, each without any text around the JSON; one that was cut off is left as it is.

    Args:
        choices: In order.
        form: What is demanded of them.
        pool: Where they are checked.

    Raises:
        NoAnswer: None is as it should be.
    """
    if form.json_schema is None:
        return list(choices)
    reasons: list[str] = []
    valid: list[Choice] = []
    for choice in choices:
        if choice.finish == "length":
            valid.append(choice)
            continue
        reason: str | None = None
        for text in dict.fromkeys((choice.text, choice.answer or "")):
            reason = await fault_of(text, form.json_schema, pool)
            if reason is None:
                valid.append(replace(choice, text=text, answer=text))
                break
        reasons.append(reason or "")
    if not valid:
        raise NoAnswer(
            f"no reply has the wanted response_format ({reasons[0]}); ask for JSON in the prompt too, allow more "
            "tokens, or use a model whose engine has grammars",
            num_texts=len(choices),
        )
    return valid


def usage_of(result: Result, choices: Sequence[Choice]) -> Json:
    """Everything spent, in the words of chat completions; what is not part of a choice counts as reasoning."""
    usage = result.usage
    shown = {node.id: node for choice in choices if choice.node is not None for node in choice.node.path()}
    in_choices = sum(node.output_tokens for node in shown.values())
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        "completion_tokens_details": {"reasoning_tokens": max(0, usage.output_tokens - in_choices)},
    }


def told(result: Result, *, policy: str, seed: int, sampling: Json) -> Json:
    """The object ``ttc`` of a response: what OpenAI's API has no words for."""
    answer = result.answer
    by_model = Counter[str]()
    for node in result.tree:
        by_model[node.model] += node.output_tokens
    return {
        "job_id": result.job_id,
        "policy": policy,
        "answer": answer.text,
        "is_whole_text": answer.node is not None and answer.node.answer is None and answer.text is not None,
        "confidence": answer.confidence,
        "confidence_kind": answer.confidence_kind,
        "alternatives": [{"answer": text, "share": share} for text, share in answer.alternatives],
        "stop_reason": result.stop_reason.value,
        "limited_by": result.limited_by,
        "num_samples": result.num_samples,
        "budget": result.budget.to_json(),
        "seed": seed,
        "sampling": sampling,
        "usage": result.usage.to_json(),
        "tokens_by_role": {
            "generators": {model: tokens for model, tokens in by_model.items() if tokens},
            "verifiers": result.usage.verifier_tokens,
        },
    }
