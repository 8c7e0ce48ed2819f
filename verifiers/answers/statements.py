"""Finds answers that are stated in words ("the answer is 5", "#### 5"), choice letters, and the last number.

Every pattern repeats only what cannot be split in two ways, so that the time is linear in the text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from orchestrator.verifiers.answers.boxed import MAX_ANSWER_CHARS, last_boxed, unclosed_boxed
from orchestrator.verifiers.answers.plain import choice_of, number_of

_CUE = re.compile(
    r"\banswer[ \t]{0,4}(?:\*\*|__)?[ \t]{0,4}"
    r"(?:(?:is|was|equals|(?:should|would|must|will)[ \t]be)\b(?:[ \t]therefore\b)?[ \t]{0,4}:?|:|=)"
    r"|\banswer\*{0,2}[ \t]{0,4}\n",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t]{0,4}####[ \t]{0,4}([^\n]{1,100})$", re.MULTILINE)
_MAX_HEADINGS = 100
_OPENERS = " \t*_:`\"'"
_MATH_SPANS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_SENTENCE_END = re.compile(r"[.!?](?=\s|$|\*)|;\s|,?\s(?:because|since|which|where|so)\s", re.IGNORECASE)
_OPTION = re.compile(r"\b(?i:option|choice|answer)(?:[ \t]is)?[ \t]{0,4}:?[ \t]{0,4}\(?([A-J])\b")
_BRACKETED_LETTER = re.compile(r"\(([A-J])\)|^[ \t]{0,4}([A-J])[.):]", re.MULTILINE)
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:(?<=\d)\.\d+|\.\d+|(?<=\d))"
    r"(?:[eE][-+]?\d{1,5}|/\d+)?%?",
    re.ASCII,
)


def last_stated(text: str) -> str | None:
    """The last answer that the text announces as such."""
    match = _last(_CUE, text)
    hashes = next(filter(_is_marked_answer, reversed(deque(_HASHES.finditer(text), maxlen=_MAX_HEADINGS))), None)
    if hashes is not None and (match is None or hashes.start() > match.start()):
        return hashes[1].strip()
    return _statement(text[match.end() : match.end() + 2 * MAX_ANSWER_CHARS]) if match is not None else None


def last_choice(text: str, *, is_expected: bool) -> str | None:
    """The last choice letter: alone on the last line, or after "option", "choice" or "answer".

    Args:
        text: What the model wrote.
        is_expected: Whether the answer must be a choice, so that any "(B)" or "B." counts.
    """
    last_line = next((line for line in reversed(text[-MAX_ANSWER_CHARS:].splitlines()) if line.strip()), "")
    if (alone := choice_of(last_line)) is not None:
        return alone
    found = _last(_OPTION, text)
    if found is None and is_expected:
        found = _last(_BRACKETED_LETTER, text)
    return next(filter(None, found.groups())) if found is not None else None


def last_number(text: str) -> str | None:
    """The last number as it is written, with its sign, currency and percent sign."""
    found = None
    for match in _NUMBER.finditer(text):
        if len(match[0]) <= MAX_ANSWER_CHARS:
            found = match[0]
    return found


def _is_marked_answer(match: re.Match[str]) -> bool:
    """Whether "#### 5" is an answer as in GSM8K, and no heading as "#### Step 3"."""
    return number_of(match[1]) is not None or choice_of(match[1]) is not None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = deque(pattern.finditer(text), maxlen=1)
    return last[0] if last else None


def _statement(rest: str) -> str | None:
    """The answer at the beginning of ``rest``: a box, a formula, or words up to the end of the sentence."""
    for line in _lines(rest):
        begun = line.lstrip(_OPENERS)
        if begun.startswith(("\\boxed", "\\fbox", "$\\boxed", "$$\\boxed")):
            return last_boxed(begun) or unclosed_boxed(begun)
        for opening, closing in _MATH_SPANS:
            end = begun.find(closing, len(opening)) if begun.startswith(opening) else -1
            if end > len(opening):
                return begun[len(opening) : end].strip() or None
        end_match = _SENTENCE_END.search(begun)
        sentence = (begun[: end_match.start()] if end_match else begun).strip(_OPENERS).rstrip(".").strip(_OPENERS)
        if 0 < len(sentence) <= MAX_ANSWER_CHARS:
            return sentence
    return None


def _lines(rest: str) -> Iterator[str]:
    seen = 0
    for line in rest.splitlines():
        if line.strip(_OPENERS + "\\[]()$"):
            yield line
            seen += 1
            if seen == 2:
                return
