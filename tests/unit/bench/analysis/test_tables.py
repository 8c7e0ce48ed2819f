"""Tables hold their shape whatever the names in them are."""

import html
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bench.analysis.estimates import Estimate
from orchestrator.bench.analysis.tables import Table, code, difference, prose, ratio, share, shown


def a_table(name: str, budget: str = "") -> Table:
    return Table("Title", ("policy", "budget", "x"), ((name, budget, "1.0"),), num_names=2, note="Note.")


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_any_name_keeps_a_markdown_row_one_row_of_three_cells(name: str):
    *_, row, _, _, _ = a_table(name).markdown()
    assert len(row.splitlines()) == 1
    assert row.replace("\\|", "").count("|") == 4


@settings(max_examples=60)
@given(st.text(max_size=200))
def test_any_name_is_text_in_html_and_one_line_on_a_terminal(name: str):
    page = a_table(name).html()
    assert page.count("<tr>") == 2
    assert page.count('<th scope="row" class="name">') == 2
    cell = page.partition('<th scope="row" class="name">')[2].partition("</th>")[0]
    assert "<" not in cell
    assert html.unescape(cell) == (shown(name) or "none")
    assert all(line.isprintable() for line in a_table(name).text())


def test_code_spans_are_longer_than_the_backticks_in_them():
    assert code("a`b") == "`` a`b ``"
    assert code("``") == "``` `` ```"
    assert code("") == "none"


def test_long_names_are_shortened_in_their_middle():
    name = shown("a" * 1000 + "b" * 1000)
    assert len(name) == 60
    assert name[0] + name[-1] == "ab"
    assert shown("x" * 60) == "x" * 60


def test_foreign_prose_is_no_markup():
    assert prose("<b>[x](y)</b> *z* `c`") == r"&lt;b&gt;\[x\](y)&lt;/b&gt; \*z\* \`c\`"


def test_columns_line_up_in_text():
    table = Table("T", ("policy", "n"), (("long name", "1"), ("x", "200")))
    assert table.text() == ["T", "policy       n", "long name    1", "x          200", ""]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (share(Estimate(0.41, 0.3624, 0.459)), "0.410 [0.362, 0.459]"),
        (difference(Estimate(0.031, -0.004, 0.066)), "+0.031 [-0.004, +0.066]"),
        (difference(Estimate(math.nan, math.nan, math.nan)), "\N{EN DASH}"),
        (ratio(Estimate(0.518, 0.481, 0.593)), "0.52 [0.48, 0.59]"),
        (ratio(Estimate(0.0123, 0.0, math.inf)), "0.012 [0.00, \N{INFINITY}]"),
        (ratio(Estimate(1234.5, 99.0, 2000.0)), "1,234 [99.00, 2,000]"),
        (ratio(Estimate(math.nan, 0.0, math.inf)), "\N{EN DASH}"),
    ],
)
def test_estimates_are_written_with_their_interval(written: str, expected: str):
    assert written == expected
