"""Quantities, confidence and reasons in words, and hostile text made fit for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from orchestrator.api.growth import Choice, Growth
from orchestrator.job import Result, StopReason

CAPS: dict[str, str] = {
    "max_output_tokens": "output tokens",
    "max_total_tokens": "total tokens",
    "max_model_calls": "model calls",
    "max_tool_calls": "tool calls",
    "max_usd": "US dollars",
    "max_flops": "FLOPs",
    "max_seconds": "seconds",
}
"""The caps of a budget, in words."""

_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_SHOWN_DIRECTIONS = str.maketrans(dict.fromkeys(_DIRECTIONS, "\ufffd"))


def printable(text: str, *, is_line: bool = False) -> str:
    """Text of a model or a caller without what could steer a terminal: control, escape and direction characters.

    Args:
        text: Anything.
        is_line: Also put it on one line.
    """
    text = without_direction(text.replace("\r\n", "\n"))
    kept = "".join(char if _is_harmless(char) else "\ufffd" for char in text)
    return " ".join(kept.split()) if is_line else kept


def _is_harmless(char: str) -> bool:
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in {"Cc", "Cs"}


def without_direction(text: str) -> str:
    """The text with its direction controls, which can make it read as something else, replaced by a visible mark."""
    return text.translate(_SHOWN_DIRECTIONS)


def brief(text: str, width: int = 60) -> str:
    """One line of at most ``width`` characters."""
    line = printable(text[: 4 * width], is_line=True)
    return line if len(line) <= width else line[: width - 1] + "…"


def percent(share: float) -> str:
    """A share in [0, 1]; never rounded to certainty."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{share:.0%}".replace("%", " %")


def seconds(value: float) -> str:
    """A duration."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def dollars(value: float) -> str:
    """US dollars with as many digits as matter."""
    return f"${value:,.2f}" if value == 0 or value >= 1 else f"${value:.3g}"


def flops(value: float) -> str:
    """Floating point operations with a metric prefix."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:,.3g} {prefix}FLOP"
    return f"{value:,.0f} FLOP"


UNITS: dict[str, Callable[[float], str]] = {"max_usd": dollars, "max_flops": flops, "max_seconds": seconds}
"""How the amounts under some caps are written; plain numbers under the others."""


def amount(cap: str, value: float) -> str:
    """An amount under a cap."""
    return UNITS[cap](value) if cap in UNITS else f"{value:,.0f}"


def confidence(result: Result) -> str:
    """How sure the policy is, and of what: nothing here is calibrated unless it says so."""
    value, kind = result.answer.confidence, result.answer.confidence_kind
    if value is None:
        return "none: the policy makes no estimate"
    match kind:
        case "majority_posterior":
            return f"{percent(value)} sure that this is the answer the model gives most often (not that it is right)"
        case "verifier":
            return f"the verifier's score is {value:.2f} of 1 (not calibrated: no probability of being right)"
        case _:
            return f"{percent(value)} sure that it is right (calibrated)"


def search_state(growth: Growth) -> str:
    """How far a tree search has come."""
    frame = growth.frame()
    return f"depth {frame.depth}, width {frame.num_open}, {frame.num_finished} finished"


def last_choice(choice: Choice, *, width: int = 60) -> str:
    """What a search kept and gave up when it last chose, and why."""
    if len(choice.reasons) == 1:
        why = brief(next(iter(choice.reasons)), width)
    else:
        why = ", ".join(f"{count} {brief(reason, width // 2)}" for reason, count in choice.reasons.items())
    return f"last kept {choice.num_kept}, gave up {choice.num_given_up}" + (f" ({why})" if why else "")


def kv_saved(unique_tokens: int, logical_tokens: int) -> str:
    """What sharing prefixes saves."""
    saved = percent(1 - unique_tokens / logical_tokens) if logical_tokens else "nothing"
    return f"{unique_tokens:,} of {logical_tokens:,} ({saved} saved by sharing)"


def stop_reason(result: Result) -> str:
    """Why the job ended."""
    cap = CAPS.get(result.limited_by or "", result.limited_by)
    match result.stop_reason:
        case StopReason.COMPLETED if cap:
            return f"the policy was done, with less than it wanted: {cap} ran short"
        case StopReason.COMPLETED:
            return "the policy was done"
        case StopReason.BUDGET:
            return f"the budget was used up: {cap or 'a cap'} did not allow more"
        case StopReason.DEADLINE:
            return "time was up"
        case StopReason.CANCELLED:
            return "it was cancelled; this is the best so far"
        case StopReason.OVERRUN:
            return "a server spent more than was reserved"
        case StopReason.WAITING:
            return "it waits for a person"
        case _:
            return f"it failed: {printable(str(result.error or 'no reason given'), is_line=True)}"
