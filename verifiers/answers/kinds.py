"""The kinds of answers: how each is asked for, cued, found in a text, and brought into canonical form."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.errors import UnknownName
from orchestrator.verifiers.answers.blocks import canonical_json, last_code_block, last_json
from orchestrator.verifiers.answers.boxed import last_boxed, unclosed_boxed
from orchestrator.verifiers.answers.patterns import PatternSearch
from orchestrator.verifiers.answers.plain import choice_of, key_of, number_of
from orchestrator.verifiers.answers.statements import last_choice, last_number, last_stated


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKind:
    """One kind of answers.

    Attributes:
        name: As in ``--answer``.
        instruction: What to ask of a model.
        cue: What makes a model state its answer next.
        extract: The answer in a text; None if there is none.
        key: Its canonical form; None if only `is_mathematical` comparison can tell.
        is_mathematical: Whether answers without a key are compared as mathematics; else they differ.
        aclose: Frees what `extract` holds.
    """

    name: str
    instruction: str
    cue: str
    extract: Callable[[str], str | None]
    key: Callable[[str], str | None] = key_of
    is_mathematical: bool = False
    aclose: Callable[[], Awaitable[None]] | None = None


KIND_NAMES = (
    "auto",
    "boxed",
    "choice",
    "code",
    "exact",
    "json",
    "json:FIELD",
    "math",
    "number",
    "open",
    "regex:PATTERN",
    "text",
)


def kind_of(name: str) -> AnswerKind:
    """The kind of that name.

    Raises:
        UnknownName: There is none.
        InvalidRequest: The pattern of a ``regex:`` kind cannot be used.
    """
    if (kind := _KINDS.get(name)) is not None:
        return kind
    prefix, colon, argument = name.partition(":")
    if prefix == "json" and argument:
        return _json_field(argument)
    if prefix == "regex" and argument:
        return _regex(argument)
    hint = "write regex: and json: with what follows the colon" if colon else ""
    raise UnknownName(kind="answer kind", name=name, known=KIND_NAMES, hint=hint)


def _auto(text: str) -> str | None:
    return (
        last_boxed(text)
        or last_stated(text)
        or unclosed_boxed(text)
        or last_choice(text, is_expected=False)
        or last_number(text)
    )


def _boxed(text: str) -> str | None:
    return last_boxed(text) or unclosed_boxed(text)


def _number(text: str) -> str | None:
    for stated in (last_boxed(text), last_stated(text), unclosed_boxed(text)):
        if stated is not None and number_of(stated) is not None:
            return stated
        if stated is not None and (within := last_number(stated)) is not None:
            return within
    return last_number(text)


def _choice(text: str) -> str | None:
    for stated in (last_boxed(text), last_stated(text), unclosed_boxed(text)):
        if stated is not None and (letter := _leading_choice(stated)) is not None:
            return letter
    return last_choice(text, is_expected=True)


_LEADING_LETTER = re.compile(r"\s*(?:\\text\s*\{)?\s*\(?\s*([A-J])\s*(?:[).:}]|\s-|$)")


def _leading_choice(stated: str) -> str | None:
    """Also of "(B) 12", a choice with its content, and of a lone small letter."""
    if (letter := choice_of(stated) or choice_of(stated.strip().upper())) is not None:
        return letter
    match = _LEADING_LETTER.match(stated)
    return match[1] if match else None


def _choice_key(answer: str) -> str | None:
    letter = _leading_choice(answer)
    return f"c:{letter}" if letter is not None else _text_key(answer)


def _text(text: str) -> str | None:
    return text.strip() or None


def _text_key(answer: str) -> str:
    return "t:" + " ".join(answer.split()).casefold()


def _code_key(answer: str) -> str:
    return "p:" + "\n".join(line.rstrip() for line in answer.strip("\n").splitlines())


def _json_key(answer: str) -> str:
    canonical = canonical_json(answer)
    return f"j:{canonical}" if canonical is not None else _text_key(answer)


def _key_or_text(answer: str) -> str:
    return key_of(answer) or _text_key(answer)


def _json_field(field: str) -> AnswerKind:
    return AnswerKind(
        name=f"json:{field}",
        instruction=f'Think first. Then finish with one JSON object that has your answer in its field "{field}".',
        cue='\n\n{"' + field + '": ',
        extract=partial(last_json, field=field),
        key=_key_or_text,
    )


def _regex(pattern: str) -> AnswerKind:
    search = PatternSearch(pattern)
    return AnswerKind(
        name=f"regex:{pattern}",
        instruction="Think first. Then state your final answer in the form that was asked for.",
        cue="\n\nThe final answer is ",
        extract=search.last_match,
        key=_key_or_text,
        aclose=search.aclose,
    )


_BOXED_INSTRUCTION = "Reason step by step, and put the final answer within \\boxed{}."
_BOXED_CUE = "\n\nThe final answer is \\boxed{"

_KINDS = {
    kind.name: kind
    for kind in (
        AnswerKind(name="auto", instruction=_BOXED_INSTRUCTION, cue=_BOXED_CUE, extract=_auto, is_mathematical=True),
        AnswerKind(name="open", instruction="", cue="", extract=_auto, is_mathematical=True),
        AnswerKind(name="boxed", instruction=_BOXED_INSTRUCTION, cue=_BOXED_CUE, extract=_boxed, is_mathematical=True),
        AnswerKind(name="math", instruction=_BOXED_INSTRUCTION, cue=_BOXED_CUE, extract=_boxed, is_mathematical=True),
        AnswerKind(name="exact", instruction=_BOXED_INSTRUCTION, cue=_BOXED_CUE, extract=_boxed, key=_text_key),
        AnswerKind(
            name="number",
            instruction='Reason step by step, and end with a line "The final answer is N", where N is a number.',
            cue="\n\nThe final answer is ",
            extract=_number,
        ),
        AnswerKind(
            name="choice",
            instruction='Reason step by step, and end with a line "The answer is (X)", X being the letter you choose.',
            cue="\n\nThe answer is (",
            extract=_choice,
            key=_choice_key,
        ),
        AnswerKind(
            name="code",
            instruction="Think first. Then give the complete code in one last block fenced by ```.",
            cue="\n\n```\n",
            extract=last_code_block,
            key=_code_key,
        ),
        AnswerKind(
            name="json",
            instruction="Think first. Then finish with your answer as one JSON object.",
            cue="\n\n{",
            extract=last_json,
            key=_json_key,
        ),
        AnswerKind(
            name="text",
            instruction="",
            cue="\n\n",
            extract=_text,
            key=_text_key,
        ),
    )
}
