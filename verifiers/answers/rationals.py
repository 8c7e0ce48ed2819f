r"""Reads a rational number, exactly, from decimals, fractions, mixed numbers and powers of ten, plain or in LaTeX.

Sizes are limited before anything is computed, so that ``1e999999999`` costs nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400
"""Most digits of a numerator or a denominator, and largest power of ten."""

_DECIMAL = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.(?P<places>[0-9]*))?(?:[eE](?P<power>[-+]?[0-9]{1,9}))?"
)
_SCIENTIFIC = re.compile(
    r"(?P<factor>[^\\*x\u00d7]+?)\s*(?:\\times|\\cdot|\*|x|\u00d7)\s*10\s*\^\s*\{?\s*(?P<power>[-+]?[0-9]{1,9})\s*\}?"
)
_PART = r"(?:\{{\s*(?P<{0}>[^{{}}]*)\}}|(?P<{0}_digit>[0-9]))"
_LATEX_FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<whole>[0-9]*)\s*\\frac\s*" + _PART.format("top") + r"\s*" + _PART.format("bottom")
)
_SLASHED = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<whole>[0-9]+)\s+)?(?P<top>[^/\s]+)\s*(?:/|\u2044|\\over)\s*(?P<bottom>[^/\s]+)"
)


def rational(text: str) -> Fraction | None:
    """The number that the whole of ``text`` states; None if it states none or one with too many digits."""
    text = text.strip()
    if len(text) > 4 * MAX_DIGITS:
        return None
    if len(text) > 2 and text[0] + text[-1] in {"()", "{}"}:
        text = text[1:-1].strip()
    if (number := _decimal(text)) is not None:
        return number
    if (match := _LATEX_FRACTION.fullmatch(text)) is not None:
        top, bottom = match["top"] or match["top_digit"], match["bottom"] or match["bottom_digit"]
        return _mixed(match["sign"], match["whole"], top, bottom)
    if (match := _SLASHED.fullmatch(text)) is not None:
        return _mixed(match["sign"], match["whole"], match["top"].strip("{}() "), match["bottom"].strip("{}() "))
    if (match := _SCIENTIFIC.fullmatch(text)) is not None:
        return _shifted(_decimal(match["factor"]), int(match["power"]))
    return None


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text.strip())
    if match is None:
        return None
    whole, places = match["whole"].replace(",", ""), (match["places"] or "")
    if not 0 < len(whole) + len(places) <= MAX_DIGITS:
        return None
    number = Fraction(int(match["sign"] + whole + places), 10 ** len(places))
    return _shifted(number, int(match["power"] or 0))


def _shifted(number: Fraction | None, power: int) -> Fraction | None:
    if number is None or abs(power) > MAX_DIGITS:
        return None
    return number * Fraction(10) ** power


def _mixed(sign: str, whole: str | None, top: str, bottom: str) -> Fraction | None:
    numerator, denominator = _decimal(top), _decimal(bottom)
    if numerator is None or not denominator:
        return None
    fraction = numerator / denominator
    if whole:
        units = _decimal(whole)
        if units is None or fraction < 0:
            return None
        fraction += units
    return -fraction if sign == "-" else fraction
