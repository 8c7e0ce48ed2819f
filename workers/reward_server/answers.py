"""Finds the likeliest tokens after each tag in what completion servers answer, in whichever of their shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.workers.reward_server.forms import as_number

Answers = list[tuple[str, float]]
"""Tokens at one position as text, each with its natural log probability."""

_MOST_UNCERTAIN = 0.01
_Reply = Mapping[str, Any]  # Any: JSON values


def reward_of(answers: Answers, *, good: str, bad: str, num_likeliest: int) -> float | None:
    """P(good) / (P(good) + P(bad)), in [0, 1].

    Spellings of an answer with white space before it count too. An answer that is not listed is at most as likely as
    the least likely of the ``num_likeliest`` that are; if that leaves the reward uncertain by more than 0.01, there is
    none.
    """
    found = {good: 0.0, bad: 0.0}
    for token, logprob in answers:
        word = token.strip(" \t\n\u2581\u0120")  # tokenizers write a space as U+2581 or U+0120
        if word in found:
            found[word] += math.exp(min(0.0, logprob))
    likeliest = sorted((logprob for _, logprob in answers), reverse=True)[:num_likeliest]
    if not likeliest or not max(found.values()):
        return None
    unlisted = math.exp(min(0.0, likeliest[-1]))
    seen = max(found.values())
    if min(found.values()) == 0 and unlisted / (seen + unlisted) > _MOST_UNCERTAIN:
        return None
    return found[good] / (found[good] + found[bad])


def generated(reply: _Reply) -> Answers | None:
    """The likeliest first tokens of a completion; None if it does not tell."""
    logprobs = _logprobs(reply)
    content = logprobs.get("content")
    if isinstance(content, list):  # as in the chat API
        return _listed(content[0].get("top_logprobs")) if content and isinstance(content[0], dict) else None
    top = logprobs.get("top_logprobs")
    return _mapped(top[-1]) if isinstance(top, list) and top else None


def of_prompt_logprobs(reply: _Reply) -> list[Answers] | None:
    """The likeliest tokens after each tag of a prompt that ends with one, from vLLM's ``prompt_logprobs``.

    Tags are where the prompt's last token occurs. None if the server does not tell ids and alternatives.
    """
    choice = _choice(reply)
    ids, rows, last = choice.get("prompt_token_ids"), choice.get("prompt_logprobs"), generated(reply)
    if not isinstance(ids, list) or not isinstance(rows, list) or not ids or len(ids) != len(rows) or last is None:
        return None
    after = [rows[place + 1] for place, token in enumerate(ids[:-1]) if token == ids[-1]]
    return _all([*(_listed(list(row.values())) if isinstance(row, dict) else None for row in after), last])


def of_echo(reply: _Reply) -> list[Answers] | None:
    """The same from ``echo`` with ``logprobs``: one token follows the prompt."""
    logprobs = _logprobs(reply)
    tokens, rows = logprobs.get("tokens"), logprobs.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(rows, list) or len(tokens) != len(rows) or len(tokens) < 2:
        return None
    tag = tokens[-2]
    return _all([_mapped(rows[place + 1]) for place, token in enumerate(tokens[:-1]) if token == tag])


def _all(found: Sequence[Answers | None]) -> list[Answers] | None:
    there = [answers for answers in found if answers is not None]
    return there if len(there) == len(found) else None


def _choice(reply: _Reply) -> _Reply:
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _logprobs(reply: _Reply) -> _Reply:
    logprobs = _choice(reply).get("logprobs")
    return logprobs if isinstance(logprobs, dict) else {}


def _mapped(row: Any) -> Answers | None:  # Any: JSON value
    """From token to log probability."""
    if not isinstance(row, dict):
        return None
    return _checked([(token, value) for token, value in row.items()])


def _listed(row: Any) -> Answers | None:  # Any: JSON value
    """A list of objects that each hold a token and its log probability."""
    if not isinstance(row, list) or not all(isinstance(entry, dict) for entry in row):
        return None
    return _checked([(entry.get("token", entry.get("decoded_token")), entry.get("logprob")) for entry in row])


def _checked(pairs: Sequence[tuple[Any, Any]]) -> Answers | None:  # Any: JSON values
    found = [(token, as_number(value)) for token, value in pairs if isinstance(token, str)]
    answers = [(token, value) for token, value in found if value is not None]
    return answers if answers and len(answers) == len(pairs) else None
