from __future__ import annotations

import pytest

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.wording import brief, dollars, flops, percent, printable, seconds


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("a\x00b\x07c\x7fd\x9be", "a\ufffdb\ufffdc\ufffdd\ufffde"),
        ("\u202eevil\u2066", "\ufffdevil\ufffd"),
        ("half \udcff", "half \ufffd"),
        ("line\r\nend\rover", "line\nend\ufffdover"),
        ("naïve 数学 🙂", "naïve 数学 🙂"),
    ],
)
def test_what_could_steer_a_terminal_is_made_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_line_is_a_line() -> None:
    assert printable("a\n b\t c", is_line=True) == "a b c"
    assert brief("word " * 50, 20) == "word word word word…"
    assert len(brief("x" * 10_000_000, 60)) == 60


def test_nothing_is_rounded_to_certainty() -> None:
    assert [percent(share) for share in (0, 0.001, 0.5, 0.995, 0.9999, 1)] == [
        "0 %", "<1 %", "50 %", ">99 %", ">99 %", "100 %",
    ]  # fmt: skip


def test_quantities_have_their_units() -> None:
    assert [seconds(value) for value in (0.04, 9.96, 59, 125, 7384)] == [
        "0.0 s", "10.0 s", "59 s", "2 min 05 s", "2 h 03 min",
    ]  # fmt: skip
    assert [dollars(value) for value in (0, 0.000123, 0.5, 1234.5)] == ["$0.00", "$0.000123", "$0.5", "$1,234.50"]
    assert [flops(value) for value in (0, 999, 2.5e9, 3e15)] == ["0 FLOP", "999 FLOP", "2.5 GFLOP", "3 PFLOP"]
    assert wording.amount("max_output_tokens", 12345) == "12,345"
