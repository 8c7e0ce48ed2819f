"""From the arguments of `Client.solve` to the body that the service reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypedDict

from orchestrator.budget import Budget
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling

Json = dict[str, Any]  # Any: JSON values


class JobOptions(TypedDict, total=False):
    """What may be said of a job beside its problem; what is left out, or None, is the service's default.

    Attributes:
        policy: The name of a policy of the service.
        params: The policy's parameters.
        budget: Caps; a string is read like the command line's ``--budget``.
        verifier: The name of a verifier of the service.
        answer: How answers are read: auto, boxed, exact, number, choice, code, json, text, or regex:PATTERN.
        messages: The conversation to show to models.
        sampling: Overrides the policy's own sampling.
        max_sample_tokens: Most tokens per sample.
        seed: All randomness derives from it.
        labels: Kept with the job.
        priority: Higher ones are taken first.
        deadline_s: Seconds from now by which the answer is wanted.
    """

    policy: str | None
    params: Mapping[str, Any] | None  # Any: each policy names the types of its own
    budget: Budget | str | None
    verifier: str | None
    answer: str | None
    messages: Iterable[Message] | None
    sampling: Sampling | None
    max_sample_tokens: int | None
    seed: int | None
    labels: Mapping[str, str] | None
    priority: int | None
    deadline_s: float | None


def job_body(options: Mapping[str, Any]) -> Json:  # Any: as `JobOptions` says
    """The body of a job without its problem.

    Raises:
        InvalidRequest: An argument has no such name, or cannot be sent.
    """
    for name in options:
        if name not in JobOptions.__annotations__:
            known = ", ".join(sorted(JobOptions.__annotations__))
            raise InvalidRequest(f"a job has no option {name!r}; it has {known}", field=name)
    return {name: _as_json(name, value) for name, value in options.items() if value is not None}


def _as_json(name: str, value: Any) -> Any:  # Any: an option, and JSON values
    if isinstance(value, Budget):
        return value.to_json()
    if isinstance(value, Sampling):
        return asdict(value)
    if name == "messages":
        return [_turn(message) for message in value]
    if callable(value):
        raise InvalidRequest(
            f"{name} must be the name of one that the service has; functions cannot be sent, and run with "
            "orchestrator.Orchestrator only",
            field=name,
        )
    return dict(value) if isinstance(value, Mapping) else value


def _turn(message: Message) -> Json:
    turn: Json = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn
