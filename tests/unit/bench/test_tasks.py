"""Tasks: written solutions are right, corrupted ones are caught where they were corrupted, and splits stay apart."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bench.tasks import TASKS, Countdown, Task, draw, draw_distinct, is_solved, split_of, steps_of
from orchestrator.bench.tasks.arithmetic import leaves_of, parse, text_of, value_of
from orchestrator.bench.tasks.expression import MODULUS
from orchestrator.bench.tasks.task import STEP_DELIMITER, answer_in, answer_step
from orchestrator.verifiers.answers import open_reader

tasks = st.sampled_from(list(TASKS.values()))
seeds = st.integers(0, 2**32)
HEAD = f"Evaluate mod {MODULUS}: "


def drawn(task: Task, seed: int) -> tuple[str, list[str]]:
    rng = random.Random(seed)
    problem, solution = task.example(rng, rng.choice(task.complexities))
    return problem, steps_of(solution)


def expression_of(problem: str) -> str:
    assert problem.startswith(HEAD)
    return problem.removeprefix(HEAD)


@given(tasks, seeds)
def test_every_written_solution_passes_every_check(task: Task, seed: int) -> None:
    problem, steps = drawn(task, seed)
    for solution in (STEP_DELIMITER.join(steps), task.write(problem, random.Random(seed))):
        assert is_solved(task, problem, solution)
        assert task.first_error(problem, steps_of(solution)) is None
        assert task.can_finish(problem, steps_of(solution))


@given(tasks, seeds)
def test_every_beginning_of_a_right_solution_can_be_finished(task: Task, seed: int) -> None:
    problem, steps = drawn(task, seed)
    end = random.Random(seed).randrange(len(steps))
    assert task.can_finish(problem, steps[:end])
    assert task.first_error(problem, steps[:end]) is None


@given(tasks, seeds)
def test_a_changed_result_is_caught_at_its_step(task: Task, seed: int) -> None:
    problem, steps = drawn(task, seed)
    rng = random.Random(seed)
    index = rng.randrange(len(steps) - 1)
    begun, result = re.fullmatch(r"(.*=|[A-F][1-6])(\w+)", steps[index]).groups()
    others = "abcdef" if task.name == "sudoku6" else map(str, range(1, 7))
    steps[index] = begun + rng.choice([other for other in others if other != result])
    assert task.first_error(problem, steps) == index
    assert not task.can_finish(problem, steps[: index + 1])


@given(tasks, seeds)
def test_a_wrong_answer_after_right_steps_is_caught_at_the_last_step(task: Task, seed: int) -> None:
    problem, steps = drawn(task, seed)
    answer = answer_in(steps[-1])
    assert answer is not None
    steps[-1] = answer_step(f"{answer}1")
    assert task.first_error(problem, steps) == len(steps) - 1
    assert not is_solved(task, problem, STEP_DELIMITER.join(steps))


@given(tasks, seeds)
def test_an_answer_before_its_time_is_caught(task: Task, seed: int) -> None:
    problem, steps = drawn(task, seed)
    if task.name != "countdown":  # there the answer stands for itself
        assert task.first_error(problem, [*steps[:-2], steps[-1]]) == len(steps) - 2


@given(tasks, seeds, st.text(max_size=30))
def test_junk_is_no_step_and_no_answer(task: Task, seed: int, junk: str) -> None:
    problem, steps = drawn(task, seed)
    if junk not in steps:
        assert task.first_error(problem, ["?" + junk]) == 0
        assert not task.is_correct(problem, junk + "?")


@given(tasks, seeds)
def test_the_same_seed_draws_the_same_example(task: Task, seed: int) -> None:
    assert drawn(task, seed) == drawn(task, seed)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_splits_share_no_canonical_problem(task: Task) -> None:
    rng = random.Random(3)
    complexity = task.default_complexity
    kept = {
        split: {task.canonical(draw(task, rng, complexity, split).problem) for _ in range(60)}
        for split in ("train", "dev", "test")
    }
    assert not kept["train"] & kept["dev"] | kept["train"] & kept["test"] | kept["dev"] & kept["test"]


@given(seeds)
def test_a_sudoku_stays_in_its_split_when_digits_rows_and_columns_are_swapped(seed: int) -> None:
    task = TASKS["sudoku6"]
    problem, _ = drawn(task, seed)
    blanks, given = problem.removeprefix("Fill ").split(" in ")
    swaps = {**dict(zip("ABCDEF", "DCABEF", strict=True)), **dict(zip("123456", "645213", strict=True))}
    swaps |= dict(zip("abcdef", "cadbef", strict=True))
    moved = [re.sub(".", lambda match: swaps[match[0]], text) for text in (blanks, given)]
    assert task.canonical(f"Fill {moved[0]} in {moved[1]}") == task.canonical(problem)


@given(seeds)
def test_an_expression_stays_in_its_split_when_sums_are_swapped(seed: int) -> None:
    task = TASKS["expression"]
    left, right = (expression_of(drawn(task, seed + number)[0]) for number in (0, 1))
    one, other = f"{HEAD}({left})+({right})", f"{HEAD}({right})+({left})"
    assert split_of(task, one) == split_of(task, other)


def test_distinct_problems_are_distinct() -> None:
    task = TASKS["countdown"]
    problems = draw_distinct(task, random.Random(1), 1, "dev", 50)
    assert len({task.canonical(problem) for problem in problems}) == len(problems) > 20


def test_drawing_ends_where_a_split_has_no_problem() -> None:
    class Alike(Countdown):
        def canonical(self, problem: str) -> str:
            return "all the same"

    task = Alike()
    split = split_of(task, "")
    others = {"train", "dev", "test"} - {split}
    assert len(draw_distinct(task, random.Random(1), 1, split, 2)) == 1
    for other in others:
        assert draw_distinct(task, random.Random(1), 1, other, 2) == []
        with pytest.raises(ValueError, match=f"no {other} problem of countdown@1"):
            draw(task, random.Random(1), 1, other)


def test_a_countdown_step_that_is_true_may_still_lead_nowhere() -> None:
    task = TASKS["countdown"]
    assert task.first_error("Make 24 from 1 2 12", ["1+2=3"]) is None
    assert not task.can_finish("Make 24 from 1 2 12", ["1+2=3"])
    assert task.first_error("Make 24 from 1 2 12", ["2+2=4"]) == 0


@given(tasks, seeds)
@settings(max_examples=30)
def test_the_default_answer_reader_finds_the_answer(task: Task, seed: int) -> None:
    _, steps = drawn(task, seed)
    assert open_reader().extract(STEP_DELIMITER.join(steps)) == answer_in(steps[-1])


@given(seeds)
def test_expressions_are_read_as_they_are_written(seed: int) -> None:
    text = expression_of(drawn(TASKS["expression"], seed)[0])
    assert text_of(parse(text)) == text
    assert value_of(parse(text)) == eval(text)  # digits, operators and brackets
    assert leaves_of(parse(text)) == [int(number) for number in re.findall(r"\d+", text)]


@pytest.mark.parametrize(
    "text", ["", "1+", "(1", "1)", "a", "1 + 2", "-1", "(" * 100 + "1" + ")" * 100, "1+" * 400 + "1"]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.compile("expression|bracket|number")):
        parse(text)
