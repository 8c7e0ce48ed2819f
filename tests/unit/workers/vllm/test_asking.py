"""What is asked of vLLM: order, and what cannot be asked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.engine import GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.errors import InvalidRequest
from orchestrator.monitors import ConfidenceFloor
from orchestrator.sampling import Sampling
from orchestrator.workers.vllm.asking import check, num_logprobs, priority

PROMPT = Prompt((Message("user", "?"),))


def request(*max_tokens: int, **fields: Any) -> GenerateRequest:
    samples = tuple(SampleSpec(0, limit) for limit in max_tokens)
    return GenerateRequest(request_id="r", prompt=PROMPT, samples=samples, **fields)


def order(now_s: float = 0.0, **fields: Any) -> int:
    return priority(request(1, **fields), now_s=now_s)


def test_smaller_priorities_come_first_and_earlier_deadlines_within_them():
    ordered = [
        order(priority=-1),
        order(priority=0, deadline_s=1.0),
        order(priority=0, deadline_s=2.0),
        order(priority=0),
        order(priority=1, deadline_s=0.1),
    ]
    assert ordered == sorted(ordered)
    assert len(set(ordered)) == len(ordered)


def test_deadlines_are_compared_by_when_they_fall():
    assert order(now_s=100.0, deadline_s=1.0) > order(now_s=0.0, deadline_s=50.0)


@pytest.mark.parametrize("deadline_s", [math.inf, 1e30, -5.0, 0.0])
@pytest.mark.parametrize("value", [-(10**30), 10**30, 0])
def test_absurd_values_stay_within_64_bits(deadline_s: float, value: int):
    assert abs(order(deadline_s=deadline_s, priority=value)) < 1 << 62


def test_monitors_ask_for_as_many_log_probabilities_as_they_need():
    assert num_logprobs(request(1, num_logprobs=3)) == 3
    assert num_logprobs(request(1, num_logprobs=3, monitors=(ConfidenceFloor(1.0, top_k=7),))) == 7


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(), "samples"),
        (request(1, 0), "max_tokens"),
        (request(1, json_schema={}, grammar="root ::= x"), "grammar"),
        (request(1, num_logprobs=11), "num_logprobs"),
        (request(1, num_logprobs=-1), "num_logprobs"),
        (request(1, max_unread_tokens=0), "max_unread_tokens"),
        (request(1, sampling=Sampling(temperature=2.5)), "temperature"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field(asked: GenerateRequest, field: str):
    with pytest.raises(InvalidRequest) as caught:
        check(asked, most_logprobs=10)
    assert caught.value.field == field
