"""Turns a conversation and the steps of a reply into the text that a reward model reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.engine import Message, Prompt, Span
from orchestrator.workers.openai.body import rendered

_FIELD = re.compile(r"\{(?:problem|steps)\}")


def tagged(steps: Sequence[str], *, tag: str, separator: str) -> list[str]:
    """For each step, the text up to and with its tag.

    White space around a step is left to tag and separator. A tag that a step itself holds is broken by a space, so
    that no text can earn rewards at places of its own choice.
    """
    texts: list[str] = []
    text = ""
    for step in steps:
        text += (separator if texts else "") + _without(step.strip(), tag.strip()) + tag
        texts.append(text)
    return texts


def _without(text: str, tag: str) -> str:
    broken = f"{tag[:1]} {tag[1:]}" if len(tag) > 1 else " "
    while tag and tag in text:
        text = text.replace(tag, broken)
    return text


def problem_of(messages: Sequence[Message]) -> str:
    """What the user asked: the contents of the user's messages, with empty lines between."""
    return "\n\n".join(message.content for message in messages if message.role == "user")


def filled(template: str, messages: Sequence[Message], steps: str) -> str:
    """What the model reads, up to and with ``steps``.

    Args:
        template: With ``{problem}`` and ``{steps}``, or ``chatml``.
        messages: The conversation.
        steps: The reply with its tags; what the template has after it is left out, so that a tag comes last.
    """
    if template == "chatml":
        return rendered(Prompt(tuple(messages), (Span(steps),)), "chatml")
    fields = {"{problem}": problem_of(messages), "{steps}": steps}
    head = template.partition("{steps}")[0] + "{steps}"
    return _FIELD.sub(lambda match: fields[match[0]], head)
