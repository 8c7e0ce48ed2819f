r"""Canonical forms of plain answers, computed in process: numbers, choice letters, words.

A key begins with its kind (``n:``, ``c:``, ``w:``), so that keys of different kinds never collide.

Conventions: numbers are exact, so ``0.333`` is not ``1/3``. ``1/2``, ``0.5`` and ``\frac{1}{2}`` are one number. Units
and currencies after or before a number are dropped, and the percent sign counts as a unit, as graders of MATH have it:
``50%`` is ``50`` and not ``1/2``. "2 million" is 2000000. ``x = 5`` is ``5``. Words compare without case. Products of
letters (``xy``) are not words.
"""

from __future__ import annotations

import re
from fractions import Fraction

from orchestrator.verifiers.answers.boxed import MAX_ANSWER_CHARS
from orchestrator.verifiers.answers.rationals import rational

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"), ('"', '"'))
_REPLACEMENTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile("[\u2212\u2013\u2010\u2011]"), "-"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<!\\)\\!\s*"), ""),
    (re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\u00a0"), " "),
    (re.compile(r"\\(?:left|right|displaystyle|bigl|bigr|Bigl|Bigr)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\s*\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|\u00b0"), " degrees"),
    (re.compile(r"(?<!\\)\\([$%#&_])"), r"\1"),
    (re.compile(r"\s+"), " "),
)
_TEXT_ONLY = re.compile(r"\s*\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{[^{}]*\}\s*\.?\s*")
_ASSIGNMENT = re.compile(r"[A-Za-z](?:_\{?\w{1,8}\}?|\([^()=]{0,20}\))?\s*=\s*(?P<value>[^=]+)")
_CURRENCY = re.compile(r"(?P<sign>[-+]?)\s*(?:US)?[$\u00a3\u20ac\u00a5]\s*(?P<value>.*)")
_UNITS = re.compile(
    r"(?P<value>.*?[0-9}.)])(?P<gap>\s*)(?P<units>[A-Za-z]{2,20}\.?(?:\^\{?[1-9]\}?)?"
    r"(?:(?:\s+|\s*/\s*|-)[A-Za-z]{1,20}\.?(?:\^\{?[1-9]\}?)?){0,5})"
)
_PERCENT = re.compile(r"(?P<value>.*[0-9}.])\s*%")
_MAX_CHOICE_CHARS = 60
_WORDS = re.compile(r"[^\W\d_]+(?:[ '\u2019-]{1,2}[^\W\d_]+)*")
_CHOICE = re.compile(r"(?:(?i:option|choice)\s)?\(?\s?([A-J])\s?\)?\s?[.:)]?")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SHORT_UNITS = _words(
    "cm mm km kg mg ml ft in lb lbs oz mi hr hrs min mins sec secs mph ms yd yds sq cu dollars cents degrees percent "
    "units feet inches meters miles hours minutes seconds days"
)
_NOT_UNITS = _words(
    "pi sqrt sin cos tan sec cot csc log ln exp mod and or to plus minus times over half halves third thirds fourths "
    "fifth fifths sixth sixths sevenths eighth eighths ninths tenth tenths hundredth hundredths thousandths squared "
    "cubed factorial choose am pm infinity point base frac binom cdot infty"
)
_NOT_WORDS = _words("sqrt sin cos tan sec cot csc log exp sinh cosh tanh infinity")


def key_of(answer: str) -> str | None:
    """The key of a plain answer; None if it is not plain."""
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    text = cleaned(answer)
    if (choice := _choice_in(answer, text)) is not None:
        return f"c:{choice}"
    if (number := _number_in(text)) is not None:
        return f"n:{number}"
    if (word := _word_in(answer, text)) is not None:
        return f"w:{word}"
    return None


def cleaned(answer: str) -> str:
    """The answer without what only concerns its looks (delimiters, spacing commands, text commands)."""
    text = unwrapped(answer)
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;:").strip()


def unwrapped(answer: str) -> str:
    """The answer without delimiters around it, such as ``$...$``."""
    text = answer.strip()
    for _ in range(4):  # a few layers, as in **$5$**
        inner = _without_one_layer(text)
        if inner == text:
            break
        text = inner
    return text


def choice_of(answer: str) -> str | None:
    r"""A choice letter from A to J: ``B``, ``(B)``, ``B.``, ``\text{(B)}``."""
    return _choice_in(answer, cleaned(answer)) if len(answer) <= _MAX_CHOICE_CHARS else None


def number_of(answer: str) -> Fraction | None:
    """The rational number that the answer states, exactly."""
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    return _number_in(cleaned(answer))


def _choice_in(answer: str, text: str) -> str | None:
    match = _CHOICE.fullmatch(text) if len(answer) <= _MAX_CHOICE_CHARS else None
    return match[1] if match else None


def _number_in(text: str) -> Fraction | None:
    if not any(character.isdigit() for character in text):
        return None
    if (assignment := _ASSIGNMENT.fullmatch(text)) is not None:
        text = assignment["value"]
    if (currency := _CURRENCY.fullmatch(text)) is not None:
        text = currency["sign"] + currency["value"]
    if (number := rational(text)) is not None:
        return number
    if (percent := _PERCENT.fullmatch(text)) is not None:
        return rational(percent["value"])
    measured = _UNITS.fullmatch(text)
    return _measured(measured) if measured is not None else None


def _measured(match: re.Match[str]) -> Fraction | None:
    units = [re.sub(r"[.^{}0-9]", "", word).casefold() for word in re.split(r"[\s/-]+", match["units"])]
    if any(unit in _NOT_UNITS for unit in units):
        return None
    is_known = units[0] in _SHORT_UNITS or units[0] in _MULTIPLIERS
    if not is_known and (not match["gap"] or len(units[0]) < 3):
        return None  # "5ab" is a product
    number = rational(match["value"].strip())
    if number is not None and units[0] in _MULTIPLIERS:
        number *= 10 ** _MULTIPLIERS[units[0]]
    return number


def _word_in(answer: str, text: str) -> str | None:
    if not _WORDS.fullmatch(text):
        return None
    word = text.casefold()
    parts = re.split(r"[ '\u2019-]+", word)
    if any(part in _NOT_WORDS for part in parts):
        return None
    if _TEXT_ONLY.fullmatch(answer.strip("$ ")) is None:
        longest = max(parts, key=len)
        is_product = len(longest) <= 4 and list(longest) == sorted(longest)  # products are written abc, not cab
        if (len(longest) < 3 or is_product) and word not in {"no", "yes"}:
            return None
    return word


def _without_one_layer(text: str) -> str:
    for opening, closing in _WRAPPERS:
        size = len(opening) + len(closing)
        if len(text) > size and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner:
                return inner.strip()
    return text
