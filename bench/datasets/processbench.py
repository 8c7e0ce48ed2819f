"""ProcessBench: where is the first wrong step of a written solution? For judging step verifiers (Zheng et al., 2024).

``Qwen/ProcessBench`` on the Hugging Face hub (Apache-2.0), one file each of GSM8K, MATH, OlympiadBench and Omni-MATH
solutions, as JSON lines. Fields: ``id``, ``problem``, ``steps``, ``label`` (index of the first wrong step from 0, -1 if
there is none) and ``final_answer_correct``. It has no questions for models to answer, so it is no `ProblemSet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.bench.datasets.file_set import chosen
from orchestrator.bench.datasets.records import Record, read_json_records

NO_ERROR = -1
"""The label of a solution without a wrong step."""


@dataclass(frozen=True, slots=True)
class StepCase:
    """A solution in steps, judged by people.

    Attributes:
        id: As in the file.
        problem: What is asked.
        steps: The solution.
        label: Index of the first wrong step, or `NO_ERROR`.
        is_final_answer_correct: Whether the answer is right, whatever the steps are.
    """

    id: str
    problem: str
    steps: tuple[str, ...]
    label: int
    is_final_answer_correct: bool


class FirstErrorScores(NamedTuple):
    """How well first errors were found.

    Attributes:
        error_accuracy: Share of the solutions with an error whose first wrong step was named; None without any.
        correct_accuracy: Share of the solutions without an error of which that was said; None without any.
        f1: Their harmonic mean, the measure of the paper; None unless there are both.
    """

    error_accuracy: float | None
    correct_accuracy: float | None
    f1: float | None


def read_processbench(path: Path, *, count: int | None = None, seed: int = 0) -> list[StepCase]:
    """The solutions of a file, or a random part.

    Raises:
        InvalidRequest: The file cannot be used, or holds fewer than ``count``.
    """
    return chosen([_case(record) for record in read_json_records(path)], count=count, seed=seed, path=path)


def _case(record: Record) -> StepCase:
    steps = record.texts("steps")
    label = record.integer("label")
    if not NO_ERROR <= label < len(steps):
        record.refuse("label", f"should be -1 or the index of one of {len(steps)} steps, not {label}", label)
    return StepCase(record.label("id"), record.text("problem"), steps, label, record.flag("final_answer_correct"))


def first_error_below(scores: Sequence[float], threshold: float) -> int:
    """The first step that scores below a threshold, or `NO_ERROR`: what a process reward model says of a solution."""
    return next((index for index, score in enumerate(scores) if score < threshold), NO_ERROR)


def first_error_scores(labels: Sequence[int], predictions: Sequence[int]) -> FirstErrorScores:
    """Compares predicted first errors with the labels, in the same order.

    Raises:
        ValueError: There are not as many of one as of the other.
    """
    hits = list(zip(labels, predictions, strict=True))
    error = _share([predicted == label for label, predicted in hits if label != NO_ERROR])
    correct = _share([predicted == label for label, predicted in hits if label == NO_ERROR])
    if error is None or correct is None:
        return FirstErrorScores(error, correct, None)
    return FirstErrorScores(error, correct, 2 * error * correct / (error + correct) if error + correct else 0.0)


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
