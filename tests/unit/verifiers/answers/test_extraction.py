"""What is found in texts. Cases marked MATH or GSM8K are excerpts of those data sets' reference solutions."""

import time

import pytest

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.verifiers.answers import open_reader

AUTO = [
    # boxes
    (r"so \boxed{42}.", "42"),
    (r"first \boxed{1}, then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\fbox{7}", "7"),
    (r"\boxed {7}", "7"),
    (r"\boxed{a \boxed{b}}", r"a \boxed{b}"),
    (r"\boxed{5} and \boxed{6", "5"),
    (r"\boxed{} The answer is 9", "9"),
    (r"These are $\boxed{\left( 3, \frac{\pi}{2} \right)}.$", r"\left( 3, \frac{\pi}{2} \right)"),  # MATH
    (r"\boxed{\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}}", r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}"),  # MATH
    (r"The final answer is \boxed{8}. I hope it is correct. The answer is 9", "8"),
    # a box that was cut off, after the cue
    (r"Let me think. 3 + 4" + "\n\nThe final answer is \\boxed{42", "42"),
    (r"thinking \boxed{42", "42"),
    (r"thinking 5 \boxed{\frac{1}{2", r"\frac{1}{2}"),
    ("The final answer is \\boxed{42\nand so on", "42"),
    (r"\boxed{", None),
    # statements
    ("The answer is 5.", "5"),
    ("The answer is 3.14.", "3.14"),
    ("the answer is therefore: -7", "-7"),
    ("Final answer: $\\frac{3}{4}$", r"\frac{3}{4}"),
    ("**Answer:** 12 apples", "12 apples"),
    ("**Final Answer**\n\n15", "15"),
    ("## Final Answer\n\\[ x = 5 \\]", "x = 5"),
    ("The answer is (x, y) = (1, 2).", "(x, y) = (1, 2)"),
    ("The answer is 4 because 2 + 2 = 4.", "4"),
    ("So the correct answer is (B) since it fits.", "(B)"),
    ("The answer is $$x^2$$.", "x^2"),
    ("The answer should be 17", "17"),
    ("Answer: Paris\nThat was easy.", "Paris"),
    ("My answer was 3. No: the answer is 4.", "4"),
    ("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),  # GSM8K
    ("#### Step 3: add\nthe sum is 12", "12"),
    ("The answer is 5\n#### 6", "6"),
    # choices and numbers
    ("It must be option C, clearly.", "C"),
    ("Some reasoning about 4 items.\n(B)", "B"),
    ("The area (A) is 45 cm", "45"),
    ("From 3 to 4,500.75 dollars", "4,500.75"),
    ("It costs $1,234.", "$1,234"),
    ("about 50%", "50%"),
    ("we get 3/4 of it", "3/4"),
    ("from -5 to \u22127", "\u22127"),
    ("the ratio .5", ".5"),
    ("in H2O and x3", None),
    ("no numbers here", None),
    ("", None),
    ("\ud800 the answer is 5", "5"),
    ("the answer is \ud800x", "?x"),
]


@pytest.mark.parametrize(("text", "answer"), AUTO)
def test_auto_finds_the_answer(text, answer):
    assert open_reader().extract(text) == answer


OTHERS = [
    ("boxed", r"The answer is 5. \boxed{6}", "6"),
    ("math", "The answer is 5.", None),
    ("number", r"\boxed{x = 5}", "x = 5"),
    ("number", r"\boxed{\text{about } 5 \text{ or so, or } 6}", "6"),
    ("number", "The answer is red", None),
    ("number", "The answer is not clear. 12 or 13", "13"),
    ("choice", "The answer is (B) 12", "B"),
    ("choice", "The answer is b.", "B"),
    ("choice", r"\boxed{\text{C}}", "C"),
    ("choice", "(A) is wrong and (D) is right", "D"),
    ("choice", "A. no\nB. yes\nso the second", "B"),
    ("choice", "\n\nThe answer is (C", "C"),
    ("choice", "nothing", None),
    ("code", "text\n```python\nx = 1\n```\nmore\n```\ny = 2\n\nz = 3\n```\n", "y = 2\n\nz = 3"),
    ("code", "```python\nx = 1\n``` \n```\n```", "x = 1"),
    ("code", "```python\ncut off", "cut off"),
    ("code", "~~~\nx = '```'\n~~~", "x = '```'"),
    ("code", "no fence", None),
    ("json", 'so {"a": {"b": 1}} or {"c": [1, 2]} done', '{"c": [1, 2]}'),
    ("json", 'outer {"a": {"b": 1}} {not json}', '{"a": {"b": 1}}'),
    ("json", '{"a": "br}ace {"}', '{"a": "br}ace {"}'),
    ("json", '{"a": ', None),
    ("json:answer", '{"answer": 5} and {"other": 6}', "5"),
    ("json:answer", '{"answer": "five"}', "five"),
    ("json:answer", '{"answer": {"b": 1.0, "a": null}}', '{"a":null,"b":1}'),
    ("text", "  all of it \n", "all of it"),
]


@pytest.mark.parametrize(("kind", "text", "answer"), OTHERS)
def test_each_kind_finds_its_own(kind, text, answer):
    assert open_reader(kind).extract(text) == answer


async def test_a_pattern_finds_its_last_group_and_a_slow_one_gives_up():
    reader = open_reader(r"regex:result=(\d+)")
    assert reader.extract("result=1 result=2 result=") == "2"
    await reader.aclose()
    slow = open_reader("regex:(a+)+b")
    started = time.monotonic()
    assert [slow.extract("a" * 100) for _ in range(10)] == [None] * 10
    assert time.monotonic() - started < 3
    await slow.aclose()


def test_unknown_kinds_and_bad_patterns_are_refused_by_name():
    with pytest.raises(UnknownName, match="known: auto, boxed"):
        open_reader("poetry")
    with pytest.raises(UnknownName):
        open_reader("regex:")
    with pytest.raises(InvalidRequest, match="unterminated"):
        open_reader("regex:(")


@pytest.mark.parametrize("kind", ["auto", "boxed", "math", "number", "choice", "code", "json", "json:x"])
def test_what_follows_the_cue_is_found(kind):
    written = {"code": "x = 1", "json": '"x": 1}', "json:x": "1}", "choice": "B"}.get(kind, "5")
    reader = open_reader(kind)
    assert reader.extract("I was thinking" + reader.cue + written) is not None


HOSTILE = [
    r"\boxed{", r"\boxed{}", "{", "}", "\\", r"\boxed ", "9", "9,", "111,", "1.", "1/", "-", "$1", "the answer is ",
    "answer is\n", "#### 5\n", "(A)", "```\n", '{"a":', '{"a":[', '{"', '{"a":1}', '{"a":[1,1,1,1,1,1,1,1],"b":',
    "\ud800", "\x00", "\n", " ", "option A ", "A. ", "**",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["auto", "number", "choice", "code", "json", "text"])
def test_hostile_texts_take_no_longer_than_long_ones(kind):
    reader = open_reader(kind)
    slowest = 0.0
    for unit in HOSTILE:
        text = (unit * 200_000)[:200_000]
        started = time.process_time()
        answer = reader.extract(text)
        if answer is not None:
            reader.key(answer)
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 2
