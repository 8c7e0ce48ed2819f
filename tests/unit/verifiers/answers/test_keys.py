import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.verifiers.answers import open_reader

SAME = [
    ("0.5", "1/2", r"\frac{1}{2}", r"\dfrac12", r"$\tfrac{1}{2}$", ".5", "0.50", "+1/2", r"\frac{2}{4}", "5e-1"),
    ("1000000", "1,000,000", r"1{,}000{,}000", r"1,\!000,\!000", r"1 \times 10^6", "1 million"),
    ("18", "$18", r"\$18", "18 dollars", "18.", "18.00", r"18\text{ cm}", "x = 18", "18 cm^2"),
    ("-7", "\u22127", r"$-7$", "-7.0", "- 7", "-\\frac{14}{2}"),
    ("90", r"90^\circ", r"90^{\circ}", "90 degrees", "90\u00b0"),
    ("50", "50%", r"50\%", "50 percent"),
    ("3/2", r"1\frac{1}{2}", "1 1/2", "1.5", r"\frac{3}{2}", "1.5 miles per hour"),
    ("(B)", "B", "B.", "B)", r"\text{(B)}", "option B", "**B**"),
    ("east", "East", r"\text{east}", "EAST.", "east"),
    ("no solution", r"\text{No  solution}"),
    ("0", "0.0", "-0", "0/5"),
    (r"\frac{270}7\text{ degrees}", "270/7"),  # MATH
    (r"11,\! 111,\! 111,\! 100", "11111111100"),  # MATH
    (r"\$32,\!348", "32348"),  # MATH
]


@pytest.mark.parametrize("answers", SAME)
def test_spellings_of_one_plain_answer_share_a_key(answers):
    keys = {answer: open_reader().key(answer) for answer in answers}
    assert None not in keys.values(), keys
    assert len(set(keys.values())) == 1, keys


DISTINCT = [
    ("1/2", "50%"),
    ("5", "-5"),
    ("0.333", "1/3"),
    ("B", "C"),
    ("east", "seat"),
    ("1", "A"),
    ("12", "1 2/1"),
    ("2 million", "2"),
]


@pytest.mark.parametrize(("left", "right"), DISTINCT)
async def test_plain_answers_that_differ_have_different_keys(left, right):
    reader = open_reader()
    assert reader.key(left) != reader.key(right)
    assert not await reader.equivalent(left, right)


@pytest.mark.parametrize(
    "answer",
    ["p - q", r"\sqrt{2}", "(1, 2)", "1,2", "2k", "5x", "5ab", "3pi", "xy", "abc", r"52_8", "4:30", "1/0", "3 or 4",
     "4 pm", "2 thirds", "sin x", "9" * 100_000, "1e999999999", r"\frac{1}{0}", "", " ", "\ud800", "1e" * 900],
)  # fmt: skip
def test_what_is_not_plain_has_no_key_and_takes_no_time(answer):
    started = time.process_time()
    assert open_reader().key(answer) is None
    assert time.process_time() - started < 0.2


@given(st.fractions(max_denominator=10**6))
def test_every_rational_is_read_exactly(number: Fraction):
    key = f"n:{number}"
    reader = open_reader()
    assert reader.key(f"{number.numerator}/{number.denominator}") == key
    assert reader.key(rf"\frac{{{number.numerator}}}{{{number.denominator}}}") == key
    assert reader.key(rf"-\frac{{{-number.numerator}}}{{{number.denominator}}}") == key


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_every_decimal_is_read_exactly_with_and_without_separators(number):
    key = f"n:{Fraction(number)}"
    assert open_reader().key(f"{number:f}") == key
    assert open_reader().key(f"{number:,f}") == key


@given(st.text(max_size=60) | st.text(alphabet="\\{}$()[]frac12.,/-+^%ABx= ", max_size=60))
def test_no_text_breaks_a_key(text):
    for kind in ("auto", "number", "choice", "code", "json", "text"):
        key = open_reader(kind).key(text)
        assert key is None or key[1] == ":"


def test_kinds_that_are_not_mathematics_have_keys_of_their_own():
    assert open_reader("json").key('{"b": 1.0, "a": [2]}') == open_reader("json").key('{"a":[2.0],"b":1}')
    assert open_reader("json").key('{"a": 1}') != open_reader("json").key('{"a": "1"}')
    assert open_reader("code").key("x = 1  \n\n") == open_reader("code").key("x = 1\n")
    assert open_reader("text").key("Hello  World") == open_reader("text").key("hello world")
    assert open_reader("choice").key("(B) 12") == open_reader("choice").key("b")
