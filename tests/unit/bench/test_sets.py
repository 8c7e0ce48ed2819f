"""Sets of problems by name: tasks of the lab drawn fresh, real sets by path, and clear words for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench.lab_set import open_lab_set
from orchestrator.bench.problems import ProblemSet
from orchestrator.bench.sets import FORMS, open_set
from orchestrator.bench.tasks import TASKS, split_of
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.verifiers.answers import open_reader

EXCERPTS = Path(__file__).parent / "datasets" / "excerpts"


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_is_a_set_of_different_problems_of_its_split(task) -> None:
    opened: ProblemSet = open_set(task.name, count=20, seed=1)
    assert opened.name == f"{task.name}@{task.default_complexity}"
    assert len({task.canonical(problem.text) for problem in opened.problems}) == 20
    assert len({problem.id for problem in opened.problems}) == 20
    reader = open_reader(opened.answer_kind)
    for problem in opened.problems:
        assert split_of(task, problem.text) == "test"
        (message,) = problem.messages
        assert (message.role, message.content) == ("user", problem.text)
        assert opened.is_correct(problem, reader.extract(f"\\boxed{{{problem.reference}}}"))
        assert not opened.is_correct(problem, f"{problem.reference}1")
        assert not opened.is_correct(problem, None)


def test_seed_split_and_complexity_choose_the_problems_and_a_larger_count_adds_to_them() -> None:
    first = open_set("expression@4", count=10, seed=1)
    assert first.name == "expression@4"
    assert open_set("expression@4", count=20, seed=1).problems[:10] == first.problems
    assert open_set("expression@4", count=10, seed=2).problems != first.problems
    dev = open_set("expression@4", count=10, seed=1, split="dev")
    assert {split_of(TASKS["expression"], problem.text) for problem in dev.problems} == {"dev"}
    assert len(open_set("countdown").problems) == 100


def test_a_task_that_has_not_as_many_problems_says_how_many() -> None:
    with pytest.raises(InvalidRequest, match=r"countdown@1 has only about \d+ different problems in its dev split"):
        open_set("countdown@1", count=5000, split="dev")
    with pytest.raises(InvalidRequest, match="should be at least 1"):
        open_set("countdown", count=0)


def test_real_sets_are_opened_by_path() -> None:
    opened = open_set(f"gsm8k:{EXCERPTS / 'gsm8k.jsonl'}", count=2, seed=5)
    assert (opened.name, len(opened.problems)) == ("gsm8k", 2)
    assert open_set(f"game24:{EXCERPTS / 'game24.csv'}").answer_kind == "exact"
    with pytest.raises(InvalidRequest, match=r"there is no file .*nowhere\.jsonl"):
        open_set("math500:nowhere.jsonl")
    with pytest.raises(InvalidRequest, match="cannot be used"):
        open_set("aime:~nobody-of-that-name/x.jsonl")


@pytest.mark.parametrize("spec", ["", "nothing", "nothing:x", "nothing@3", ":", "@", "gsm8k@3", "x" * 100_000])
def test_an_unknown_set_is_answered_with_the_names_and_forms(spec: str) -> None:
    with pytest.raises(UnknownName) as raised:
        open_set(spec)
    assert set(raised.value.known) == set(FORMS)
    assert all(form in raised.value.message for form in FORMS)
    assert len(raised.value.message) < 1000


@pytest.mark.parametrize(
    ("spec", "way_out"),
    [
        ("gsm8k", "write gsm8k:PATH"),
        ("gsm8k:", "write gsm8k:PATH"),
        ("processbench", "write processbench:PATH"),
        ("expression@x", "write expression@NUMBER, for instance expression@"),
        ("expression@", "write expression@NUMBER"),
        ("expression@-1", "write expression@NUMBER"),
        ("expression:6", "write expression@NUMBER"),
        ("expression@7", "no complexity 7; choose one of 1, 2, 3"),
        ("processbench:x", "read_processbench and compare with first_error_scores"),
    ],
)
def test_a_form_that_is_nearly_right_is_answered_with_the_right_one(spec: str, way_out: str) -> None:
    with pytest.raises((UnknownName, InvalidRequest), match=way_out):
        open_set(spec)


def test_an_unknown_task_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="unknown task 'chess'; known: countdown, expression, sudoku6"):
        open_lab_set("chess")
