from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator import Budget, JobState, Message, Sampling, StopReason, Usage
from orchestrator.actions import Answer
from orchestrator.errors import InvalidRequest, NoAnswer
from orchestrator.job import MAX_PROBLEM_CHARS, JobSpec, Result
from orchestrator.tree import Node, Tree

MESSAGES = (Message("user", "x"),)


def test_a_spec_survives_being_written_down() -> None:
    spec = JobSpec(
        problem="x",
        messages=(Message("system", "s"), *MESSAGES),
        policy="p",
        params={"n": 3},
        fingerprint="f",
        budget=Budget(max_usd=0.29, max_seconds=3.5, target_confidence=0.9),
        seed=2**63 - 1,
        answer_kind="number",
        sampling=Sampling(temperature=0.1, top_k=3),
        max_sample_tokens=7,
        models={"small": "m"},
        labels={"a": "b"},
    )
    assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    plain = JobSpec(problem="x", messages=MESSAGES, policy="p")
    assert JobSpec.from_json(json.loads(json.dumps(plain.to_json()))) == plain


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("problem", {"problem": ""}),
        ("problem", {"problem": "x" * (MAX_PROBLEM_CHARS + 1)}),
        ("problem", {"problem": "a\udc80b"}),
        ("seed", {"seed": 2**63}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 1.0}),
        ("seed", {"seed": True}),
        ("max_sample_tokens", {"max_sample_tokens": 0}),
    ],
)
def test_what_cannot_be_a_job_is_refused_by_field_in_a_short_sentence(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        JobSpec(**{"problem": "x", "messages": MESSAGES, "policy": "p", **values})
    assert caught.value.field == field
    assert len(str(caught.value)) < 300
    assert len(json.dumps(caught.value.fields())) < 1000


def test_policies_in_angle_brackets_cannot_be_imported_again() -> None:
    assert JobSpec(problem="x", messages=MESSAGES, policy="m:f").is_resumable
    assert not JobSpec(problem="x", messages=MESSAGES, policy="<f>").is_resumable


def test_a_result_is_json_and_raises_what_went_wrong() -> None:
    error = NoAnswer("none", num_texts=0, limited_by=None)
    values: dict[str, Any] = {
        "job_id": "j",
        "usage": Usage(prompt_tokens=3, output_tokens=4),
        "budget": Budget(),
        "tree": Tree(Node(id="0", messages=MESSAGES)),
    }
    good = Result(
        state=JobState.SUCCEEDED,
        answer=Answer("x", alternatives=(("y", 0.2),)),
        stop_reason=StopReason.COMPLETED,
        **values,
    )
    bad = Result(state=JobState.FAILED, answer=Answer(None), stop_reason=StopReason.FAILED, error=error, **values)
    data = json.loads(json.dumps(good.to_json()))
    assert (data["answer"], data["total_tokens"], data["alternatives"]) == ("x", 7, [{"answer": "y", "share": 0.2}])
    assert good.raise_for_error() is good
    with pytest.raises(NoAnswer):
        bad.raise_for_error()
    assert bad.to_json()["error"]["code"] == error.code
