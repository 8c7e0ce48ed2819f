"""ProcessBench: solutions with their first error, and the scores of the paper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.datasets.processbench import (
    NO_ERROR,
    first_error_below,
    first_error_scores,
    read_processbench,
)
from orchestrator.errors import InvalidRequest

RECORD = {"id": "x-0", "problem": "p", "steps": ["a", "b"], "label": 1, "final_answer_correct": False}


def test_solutions_are_read_with_their_labels(excerpt) -> None:
    cases = read_processbench(excerpt("processbench.jsonl"))
    assert [case.label == NO_ERROR for case in cases] == [True, True, False, False]
    assert [case.is_final_answer_correct for case in cases[:2]] == [True, True]
    assert all(case.label < len(case.steps) and case.id.startswith("gsm8k-") for case in cases)
    assert read_processbench(excerpt("processbench.jsonl"), count=2, seed=3) != cases


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"label": 2}, "field 'label' should be -1 or the index of one of 2 steps, not 2"),
        ({"label": -2}, "field 'label' should be -1"),
        ({"label": True}, "field 'label' is true or false and should be a whole number"),
        ({"label": 1.0}, "field 'label' is a number and should be a whole number"),
        ({"steps": "ab"}, "field 'steps' should be a list of texts"),
        ({"steps": ["a", 1]}, "field 'steps' should be a list of texts"),
        ({"final_answer_correct": "no"}, "field 'final_answer_correct' is text and should be true or false"),
    ],
)
def test_broken_records_are_refused(written, change, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read_processbench(written({**RECORD, **change}))


def test_scores_are_accuracies_on_either_kind_and_their_harmonic_mean() -> None:
    labels = [-1, -1, -1, -1, 0, 2]
    scores = first_error_scores(labels, [-1, -1, -1, 0, 0, 1])
    assert scores == (0.5, 0.75, pytest.approx(0.6))
    assert first_error_scores(labels, [0] * 4 + [-1] * 2) == (0.0, 0.0, 0.0)
    assert first_error_scores([-1], [-1]) == (None, 1.0, None)
    assert first_error_scores([3], [2]) == (0.0, None, None)
    with pytest.raises(ValueError, match="shorter"):
        first_error_scores(labels, [0])


@given(st.lists(st.floats(0, 1)), st.floats(0, 1))
def test_the_first_low_score_is_the_first_error(scores: list[float], threshold: float) -> None:
    first = first_error_below(scores, threshold)
    if first == NO_ERROR:
        assert all(score >= threshold for score in scores)
    else:
        assert scores[first] < threshold
        assert all(score >= threshold for score in scores[:first])
