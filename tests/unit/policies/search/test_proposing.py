"""Lists of next steps: what the model is asked, and what is read of its reply."""

import pytest

from orchestrator.engine import Message
from orchestrator.policies.search.proposing import asking_for_steps, read_steps
from orchestrator.policy import Query
from orchestrator.tree import Node

ROOT = Node("root", messages=(Message("user", "6 * 7?"),))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1. Add.\n2. Multiply.\n3. Guess.", ["Add.", "Multiply.", "Guess."]),
        ("Here they are:\n\n1) Add.\n\n2) Multiply.\n", ["Add.", "Multiply."]),
        ("- Add.\n* Multiply.\n\u2022 Guess.", ["Add.", "Multiply.", "Guess."]),
        ("(1) Add.\n 2: Multiply.", ["Add.", "Multiply."]),
        ("1. Add.\n2. Add.\n3. Guess.", ["Add.", "Guess."]),
        ("1. a\n2. b\n3. c\n4. d", ["a", "b", "c"]),
        ("1. 7 * 6 = 42\n2.", ["7 * 6 = 42"]),
        ("3.5 is the mean\n-4 is less", []),
        ("I would add them up first.", []),
        ("", []),
    ],
)
def test_steps_are_read_from_lists_only(text: str, steps: list[str]):
    assert read_steps(text, num_steps=3) == steps


def test_the_model_sees_the_problem_and_the_solution_so_far():
    query = Query("6 * 7 in {base 10}?", ROOT)
    [start] = asking_for_steps(query, ROOT, 4)
    assert "6 * 7 in {base 10}?" in start.content
    assert "[Solution so far]\n(nothing yet)\n" in start.content
    assert "numbered from 1 to 4" in start.content
    [later] = asking_for_steps(query, Node("n", ROOT, text="Well: {6}\n\n"), 4)
    assert "[Solution so far]\nWell: {6}\n" in later.content
