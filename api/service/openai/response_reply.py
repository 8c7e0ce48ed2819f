"""Responses as JSON, made from a job's record and what is known of its end: the same while it runs and ever after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.api.service.openai.replies import Choice, choices_of, told, usage_of
from orchestrator.api.story import JobStory
from orchestrator.errors import TtcError
from orchestrator.job import JobSpec, Result
from orchestrator.reply_form import AUTO, NO_TOOL, SOME_TOOL, ToolOffer
from orchestrator.store import JobRecord, JobState, JournalRow

Json = dict[str, Any]  # Any: JSON values

PREFIX = "resp_"
MODEL, EFFORT, PREVIOUS, INSTRUCTIONS, BACKGROUND, METADATA = (
    "openai.model",
    "openai.effort",
    "openai.previous",
    "openai.instructions",
    "openai.background",
    "metadata.",
)
"""Labels by which a job remembers the response that it is."""

_STATUSES = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.WAITING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A response as the store has it.

    Attributes:
        record: Its job.
        result: The job's end, with its tree; None while it is unfinished.
        choices: What is shown; none while it is unfinished, and if it failed.
        error: Why there is nothing to show.
    """

    record: JobRecord
    result: Result | None = None
    choices: Sequence[Choice] = ()
    error: TtcError | None = None


def stored(record: JobRecord, rows: Sequence[JournalRow]) -> Stored:
    """What a job's record and journal say of its response."""
    if not record.state.is_terminal:
        return Stored(record=record)
    story = JobStory(record, rows)
    if story.result is None:
        return Stored(record=record)
    answer = replace(story.result.answer, node=story.chosen)
    result = replace(story.result, tree=story.tree, answer=answer)
    spec = story.spec
    try:
        choices = choices_of(result, spec.form, n=1, is_single=spec.policy == "single")
    except TtcError as error:
        return Stored(record=record, result=result, error=error)
    return Stored(record=record, result=result, choices=choices)


def response(known: Stored, *, logprobs: Sequence[Json] = ()) -> Json:
    """The response.

    Args:
        known: What there is.
        logprobs: Of its text, in OpenAI's shape.
    """
    record, spec = known.record, JobSpec.from_json(known.record.spec)
    status = _status(known)
    sampling, tools = spec.sampling, spec.form.tools
    return {
        "id": PREFIX + record.id,
        "object": "response",
        "created_at": record.created_at,
        "completed_at": record.updated_at if status == "completed" else None,
        "status": status,
        "background": BACKGROUND in spec.labels,
        "error": _error(known),
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": spec.messages[0].content if INSTRUCTIONS in spec.labels else None,
        "max_output_tokens": spec.max_sample_tokens,
        "model": spec.labels.get(MODEL, spec.policy),
        "output": output_of(known, logprobs),
        "parallel_tool_calls": tools.may_call_several if tools else True,
        "previous_response_id": spec.labels.get(PREVIOUS),
        "reasoning": {"effort": spec.labels.get(EFFORT), "summary": None},
        "store": True,
        "temperature": None if sampling is None else sampling.temperature,
        "text": {"format": _format(spec)},
        "tool_choice": _choice(tools),
        "tools": [{"type": "function", **function} for function in (tools.functions if tools else ())],
        "top_p": None if sampling is None else sampling.top_p,
        "truncation": "disabled",
        "usage": None if known.result is None else _usage(known.result, known.choices),
        "metadata": {
            name.removeprefix(METADATA): value for name, value in spec.labels.items() if name.startswith(METADATA)
        },
        "ttc": None if known.result is None else _told(known.result, spec),
    }


def output_of(known: Stored, logprobs: Sequence[Json] = ()) -> list[Json]:
    """The items that a response consists of: a message, then calls."""
    items: list[Json] = []
    for choice in known.choices:
        status = "incomplete" if choice.finish == "length" else "completed"
        if choice.text or not choice.tool_calls:
            items.append(message_item(known.record.id, [text_part(choice.text, logprobs)], status=status))
        items += [
            {
                "type": "function_call",
                "id": f"fc_{known.record.id}_{place}",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
            for place, call in enumerate(choice.tool_calls)
        ]
    return items


def message_item(job_id: str, content: list[Json], *, status: str) -> Json:
    """The message of a response."""
    return {"type": "message", "id": f"msg_{job_id}", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: Sequence[Json] = ()) -> Json:
    """The only part of its content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _status(known: Stored) -> str:
    status = _STATUSES[known.record.state]
    has_text = bool(known.choices)
    is_cut = has_text and known.choices[0].finish == "length"
    if status == "failed" and has_text:
        return "incomplete"  # the budget ended it, and what there is of it is shown
    if status == "completed" and known.error is not None:
        return "failed"
    return "incomplete" if is_cut and status == "completed" else status


def _error(known: Stored) -> Json | None:
    if _status(known) != "failed":
        return None
    error = known.error or (known.result.error if known.result is not None else None)
    if error is None:
        return {"code": "server_error", "message": "the job failed"}
    return {"code": "server_error", "message": str(error), "ttc_code": error.code}


def _usage(result: Result, choices: Sequence[Choice]) -> Json:
    usage = usage_of(result, choices)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
    }


def _told(result: Result, spec: JobSpec) -> Json:
    sampling: Json = {"from": "policy"}
    if (own := spec.sampling) is not None:
        sampling = {
            "from": "caller",
            "temperature": own.temperature,
            "top_p": own.top_p,
            "top_k": own.top_k,
            "min_p": own.min_p,
        }
    return told(result, policy=spec.policy, seed=spec.seed, sampling=sampling)


def _format(spec: JobSpec) -> Json:
    schema = spec.form.json_schema
    if schema is None:
        return {"type": "text"}
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    return {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}


def _choice(tools: ToolOffer | None) -> str | Json:
    if tools is None or tools.choice in {AUTO, NO_TOOL, SOME_TOOL}:
        return AUTO if tools is None else tools.choice
    return {"type": "function", "name": tools.choice}
