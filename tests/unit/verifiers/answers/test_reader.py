import asyncio
import subprocess
import sys
import time

import pytest

from orchestrator.answers import AnswerClasses
from orchestrator.isolation import KillablePool
from orchestrator.verifiers.answers import comparison_pool, open_reader
from orchestrator.verifiers.answers.reader import Reader

EQUIVALENT = [
    ("p - q", "p-q"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("(x+1)^2", "x^2+2x+1"),
    ("1,-2", "-2,1"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    (r"(0,1)\cup(2,3)", r"(2,3)\cup(0,1)"),
    (r"\sqrt{4}", "2"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \end{pmatrix}"),
    ("10000", r"10{,}000"),
    ("4:30", r"4:30 \text{ p.m.}"),
    ("$p-q$", r"-q+p"),
]
DIFFERENT = [
    (r"\sqrt{2}", r"\sqrt{3}"),
    ("p - q", "q - p"),
    ("(1,2)", "(2,1)"),
    ("[2,5)", "(2,5)"),
    (r"\text{east}", "p"),
    ("x", "1"),
    (r"\frac{", "1"),
    ("9" * 5000, "x"),
]


@pytest.fixture(scope="module")
def shared() -> KillablePool:
    return comparison_pool()


@pytest.fixture
def reader(shared) -> Reader:
    return open_reader(pool=shared, timeout_s=10)


@pytest.mark.parametrize(("left", "right"), EQUIVALENT)
async def test_the_same_value_in_two_spellings_is_equivalent_both_ways(reader, left, right):
    assert await reader.equivalent(left, right)
    assert await reader.equivalent(right, left)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
async def test_different_values_are_not_equivalent_either_way(reader, left, right):
    assert not await reader.equivalent(left, right)
    assert not await reader.equivalent(right, left)


async def test_a_comparison_that_takes_too_long_says_different_and_is_not_tried_for_ever(shared):
    reader = open_reader(pool=shared, timeout_s=0.3)
    tower = "9^{9^{9^{9^{9}}}}"
    started = time.monotonic()
    for other in ("x", "y", "z", "p-q", "a+b", "c+d"):
        assert not await reader.equivalent(tower, other)
    assert time.monotonic() - started < 6
    patient = open_reader(pool=shared, timeout_s=10)
    assert await patient.equivalent(r"\sqrt{8}", r"2\sqrt{2}")


async def test_kinds_without_mathematics_never_start_a_worker():
    reader = open_reader("number")
    assert not await reader.equivalent(r"\sqrt{8}", r"2\sqrt{2}")
    assert await reader.equivalent("p - q", "p-q")
    await reader.aclose()
    await reader.aclose()


async def test_equal_answers_that_arrive_together_make_one_class_named_by_the_first(shared):
    classes = AnswerClasses(open_reader(pool=shared, timeout_s=10))
    spellings = [r"2\sqrt{3}", r"\sqrt{12}", r"\sqrt{4 \cdot 3}", r"\sqrt{3} \cdot 2"]
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(classes.classify(answer)) for answer in spellings]
    assert {task.result() for task in found} == {r"2\sqrt{3}"}


async def test_votes_are_counted_by_class(shared):
    classes = AnswerClasses(open_reader(pool=shared, timeout_s=10))
    answers = ["0.5", r"\sqrt{8}", r"\frac{1}{2}", r"2\sqrt{2}", "1/2", "3"]
    assert [await classes.classify(answer) for answer in answers] == [
        "0.5",
        r"\sqrt{8}",
        "0.5",
        r"\sqrt{8}",
        "0.5",
        "3",
    ]
    await shared.aclose()


def test_the_parent_never_imports_math_verify():
    script = """
import asyncio, sys
from orchestrator.verifiers.answers import open_reader

async def main():
    reader = open_reader(timeout_s=20)
    assert await reader.equivalent("(x+1)^2", "x^2+2x+1")
    await reader.aclose()

asyncio.run(main())
assert not {"math_verify", "sympy", "latex2sympy2_extended"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
