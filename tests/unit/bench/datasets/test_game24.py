"""Game of 24: expressions are checked exactly, in plain signs and in LaTeX."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.datasets.game24 import open_game24
from orchestrator.errors import InvalidRequest


@pytest.fixture
def game24(excerpt):
    return open_game24(excerpt("game24.csv"))


@pytest.mark.parametrize(
    ("numbers", "answer", "is_right"),
    [
        ("1 1 4 6", "(1+1-1)*4*6", False),
        ("1 1 4 6", "1*1*4*6", True),
        ("1 1 4 6", "1 \u00d7 1 \u00d7 4 \u00d7 6 = 24", True),
        ("1 1 4 6", "4*6", False),
        ("1 1 4 6", "4*6*1*1*1", False),
        ("1 1 4 6", "46-11-11", False),
        ("1 1 4 6", "24", False),
        ("1 1 4 6", "4*6/(1-1)", False),
        ("1 1 4 6", "4*6*1*1=25", False),
        ("9 9 12 12", r"$\frac{12 \cdot 12}{9} + 9 = 25$", False),
        ("9 9 12 12", r"\left(9+12\right) \div 9 \times 12", False),
        ("9 9 12 12", "12+12+9-9", True),
        ("9 9 12 12", "$[12 + 12] + \\{9 \u2212 9\\}$", True),
        ("1 3 3 11", r"\dfrac{(11+1)\times(3+3)}{3}", False),
        ("1 3 3 11", r"\left(11 - 3\right) \cdot \frac{3}{1}.", True),
        ("6 8 9 11", r"\frac{8}{\frac{9 - 6}{9}}", False),
        ("6 8 9 11", r"\frac{6 \times 8}{11 - 9}", True),
    ],
)
def test_expressions_are_checked_exactly(game24, numbers: str, answer: str, is_right: bool) -> None:
    (problem,) = (problem for problem in game24.problems if problem.text == numbers)
    assert game24.is_correct(problem, answer) is is_right


@given(answer=st.one_of(st.text(), st.text("0123456789+-*/()\\{}frac =", max_size=600)))
def test_hostile_answers_are_wrong_and_nothing_else(answer: str) -> None:
    from pathlib import Path

    game24 = open_game24(Path(__file__).with_name("excerpts") / "game24.csv")
    assert not game24.is_correct(game24.problems[2], f"{answer}x")
    game24.is_correct(game24.problems[2], answer)


def test_long_and_deep_answers_end_at_once(game24) -> None:
    for answer in ("(" * 100_000, "\\frac{" * 80 + "}{" * 80, "1+" * 240 + "1", "9" * 500):
        assert not game24.is_correct(game24.problems[0], answer)


def test_games_are_asked_with_their_numbers_and_known_by_their_rank(game24) -> None:
    assert [problem.id for problem in game24.problems] == ["1", "2", "50", "899", "900"]
    (message,) = game24.problems[2].messages
    assert "9, 9, 12, 12" in message.content
    assert "\\boxed{}" in message.content


def test_what_is_no_game_is_refused(written) -> None:
    with pytest.raises(InvalidRequest, match="line 2: field 'Puzzles' should be four numbers"):
        open_game24(written("Rank,Puzzles", "1,1 2 3"))
    with pytest.raises(InvalidRequest, match="line 2: field 'Puzzles' is missing; fields there: Rank, puzzle"):
        open_game24(written("Rank,puzzle", "1,1 2 3 4"))
