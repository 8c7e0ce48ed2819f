"""Tables of reports as plain text, Markdown and HTML, and how estimates are written in them.

Names of policies, sets, models and budgets come from files that others wrote: each rendering makes them harmless.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass

from orchestrator.bench.analysis.axes import UNKNOWN
from orchestrator.bench.analysis.estimates import Estimate

_LONGEST_NAME = 60
_LONGEST_IN_TEXT = 36


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: One line above it.
        head: Column heads, our own words.
        rows: As many cells each as there are heads.
        num_names: How many columns at the left hold names, which may be hostile; the others hold our own words, of
            which only a first column stands at the left.
        note: A sentence or two below it, our own words.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_names: int = 1
    note: str = ""

    def text(self) -> list[str]:
        """Lines for a terminal."""
        body = [
            tuple(
                (shown(cell, longest=_LONGEST_IN_TEXT) or "none") if place < self.num_names else cell
                for place, cell in enumerate(row)
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(self.head, *body, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place < self._num_left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.head, *body)
        ]
        return [self.title, *lines, *([self.note] if self.note else []), ""]

    def markdown(self) -> list[str]:
        """Lines of a Markdown page."""
        body = [
            [code(cell).replace("|", "\\|") if place < self.num_names else cell for place, cell in enumerate(row)]
            for row in self.rows
        ]
        rule = ["---"] * self._num_left + ["---:"] * (len(self.head) - self._num_left)
        lines = [f"| {' | '.join(cells)} |" for cells in (self.head, rule, *body)]
        return [f"**{self.title}**", "", *lines, "", *([self.note, ""] if self.note else [])]

    def html(self) -> str:
        """An element for a page that has styles for ``scroll``, ``note`` and ``name``."""
        head = "".join(
            f'<th scope="col"{self._html_class(place)}>{html.escape(cell)}</th>' for place, cell in enumerate(self.head)
        )
        body = "\n".join(f"<tr>{''.join(self._html_cells(row))}</tr>" for row in self.rows)
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f'<h3>{html.escape(self.title)}</h3>\n<div class="scroll" tabindex="0"><table>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n{note}"
        )

    def _html_cells(self, row: tuple[str, ...]) -> list[str]:
        texts = [(shown(cell) or "none") if place < self.num_names else cell for place, cell in enumerate(row)]
        names = [f'<th scope="row" class="name">{html.escape(text)}</th>' for text in texts[: self._num_left]]
        return [*names, *(f"<td>{html.escape(text)}</td>" for text in texts[self._num_left :])]

    def _html_class(self, place: int) -> str:
        return ' class="name"' if place < self._num_left else ""

    @property
    def _num_left(self) -> int:
        return max(1, self.num_names)


def shown(text: str, *, longest: int = _LONGEST_NAME) -> str:
    """A name on one line, shortened in its middle; what can't be printed or turns the text around is replaced."""
    half = longest // 2
    if len(text) > longest:
        text = f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half + 1 :]}"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text).strip()


def code(text: str) -> str:
    """A name as a code span that does not end early."""
    name = shown(text)
    if not name:
        return "none"
    fence = "`" * (max((len(run) for run in re.findall("`+", name)), default=0) + 1)
    pad = " " if "`" in name else ""
    return f"{fence}{pad}{name}{pad}{fence}"


def prose(text: str) -> str:
    """Foreign text in a Markdown sentence: nothing in it is taken for markup."""
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(shown(text, longest=200), quote=False))


def share(estimate: Estimate) -> str:
    """``0.410 [0.362, 0.459]``."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def difference(estimate: Estimate) -> str:
    """``+0.031 [-0.004, +0.066]``."""
    if math.isnan(estimate.value):
        return UNKNOWN
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def ratio(estimate: Estimate) -> str:
    """``0.52 [0.48, 0.59]``; an end that the problems do not bound is 0 or infinite."""
    if math.isnan(estimate.value):
        return UNKNOWN
    value, low, high = map(_factor, estimate)
    return f"{value} [{low}, {high}]"


def _factor(number: float) -> str:
    if not math.isfinite(number):
        return "\N{INFINITY}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}" if number >= 0.1 or not number else f"{number:.2g}"
