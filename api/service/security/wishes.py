"""What callers may not ask a service for, though programs may ask the library: code, and what costs a process."""

from __future__ import annotations

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.registry import names


def check_wishes(*, policy: str | None, answer: str, allows_patterns: bool) -> None:
    """Refuses names that lead to code, and patterns where they are not allowed.

    Args:
        policy: The policy's name. ``module:function`` would import and call whatever a caller likes.
        answer: How answers are to be read. A ``regex:`` pattern is searched in a process of its own.
        allows_patterns: Callers are trusted with patterns.

    Raises:
        UnknownName: The policy is no registered one.
        InvalidRequest: The answer is to be read by a pattern.
    """
    if policy is not None and policy not in (known := names("policy")):
        raise UnknownName(kind="policy", name=policy, known=known)
    if answer.startswith("regex:") and not allows_patterns:
        raise InvalidRequest(
            "this service reads no answers by patterns of callers (service.allows_patterns); name a kind, such as "
            "number, choice or json:FIELD",
            field="answer",
            value=answer,
        )
