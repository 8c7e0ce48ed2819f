"""Chat completions as JSON: whole ones, and the parts that chunks share with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.api.service.openai.planning import Plan
from orchestrator.api.service.openai.replies import Choice, told, usage_of
from orchestrator.job import Result
from orchestrator.reply_form import ToolCall

Json = dict[str, Any]  # Any: JSON values


def completion(
    result: Result, choices: Sequence[Choice], plan: Plan, logprobs: Sequence[list[Json]], *, created: int
) -> Json:
    """A whole chat completion.

    Args:
        result: The job's end.
        choices: What is shown of it.
        plan: What was asked for.
        logprobs: Of the tokens of each choice, as the job's events told them.
        created: Seconds since the epoch.
    """
    return {
        "id": completion_id(result.job_id),
        "object": "chat.completion",
        "created": created,
        "model": plan.wish.model,
        "choices": [
            {
                "index": index,
                "message": _message(choice),
                "finish_reason": choice.finish,
                "logprobs": logprobs_of(logprobs[index], plan) if index < len(logprobs) else None,
                **rank_of(choice),
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage_of(result, choices),
        "ttc": told_of(result, plan),
    }


def completion_id(job_id: str) -> str:
    """The id of a completion."""
    return f"chatcmpl-{job_id}"


def told_of(result: Result, plan: Plan) -> Json:
    """The object ``ttc``."""
    return told(result, policy=plan.policy, seed=plan.job.seed, sampling=plan.sampling)


def logprobs_of(entries: Sequence[Json], plan: Plan) -> Json | None:
    """Log probabilities in OpenAI's shape; None where they were not asked for."""
    count = plan.wish.top_logprobs
    if count is None:
        return None
    content = [
        {**_token(entry["token"], entry["logprob"]), "top_logprobs": [_token(*top) for top in entry["top"][:count]]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def tool_calls_of(calls: Sequence[ToolCall]) -> list[Json]:
    """Calls in OpenAI's shape."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def _message(choice: Choice) -> Json:
    message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message |= {"content": choice.text or None, "tool_calls": tool_calls_of(choice.tool_calls)}
    return message


def rank_of(choice: Choice) -> Json:
    """What only we say of a choice."""
    return {"ttc": {"answer": choice.answer, "share": choice.share}}


def _token(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
