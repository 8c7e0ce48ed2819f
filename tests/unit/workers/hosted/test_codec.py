"""Every value of the engine protocols survives the way to another process and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import (
    Capability,
    Delta,
    Embeddings,
    Finished,
    FinishReason,
    GenerateRequest,
    LogitRow,
    Message,
    ModelDescription,
    Prefilled,
    Prompt,
    SampleSpec,
    Span,
    StepRewards,
    TokenAlternatives,
    TokenScores,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.errors import ContextOverflow, EngineFailed, InvalidRequest, TtcError, UnknownName
from orchestrator.monitors import AnswerComplete, ConfidenceFloor, Repetition
from orchestrator.reply_form import ToolCall, ToolOffer
from orchestrator.sampling import Sampling
from orchestrator.workers.hosted.codec import Blobs, codec_of, decode, encode
from orchestrator.workers.hosted.frames import FrameReader, packed
from orchestrator.workers.hosted.protocol import call_message, called_with, error_data, error_of, event_data, event_of

CALL = ToolCall("id", "add", '{"a": 1}')
REQUEST = GenerateRequest(
    request_id="r\ud800 \0 🎉",
    prompt=Prompt(
        (Message("user", "naïve \ud800", (CALL,), "call"), Message("assistant", "")),
        (Span("a", (1, 2**60), "words"), Span("b")),
    ),
    samples=(SampleSpec(2**32 - 1, 7), SampleSpec(0, 1)),
    sampling=Sampling(temperature=0.1, top_k=3, top_p=0.9, min_p=0.05),
    stop=("\n\n", "stop"),
    monitors=(Repetition(max_period=3), AnswerComplete(pattern="x+"), ConfidenceFloor(floor=0.25)),
    num_logprobs=5,
    json_schema={"type": "object", "properties": {"n": {"enum": [1, None, "two"]}}},
    grammar="root ::= x",
    tools=ToolOffer(functions=({"name": "add"},), choice="add", may_call_several=False),
    tree_id="tree",
    cache_salt="salt",
    priority=-3,
    deadline_s=1.5,
    max_unread_tokens=12,
)
DELTA = Delta(
    index=3,
    text="text",
    num_tokens=2,
    token_ids=(5, 2**60),
    logprobs=(-0.1, -math.inf),
    alternatives=(TokenAlternatives((1, "one"), (-0.5, -1e-9)),),
    token_texts=("te", "xt"),
)
FINISHED = Finished(
    index=2,
    reason=FinishReason.TOOL_CALL,
    output_tokens=9,
    detail="cut",
    is_estimated=True,
    recomputed_tokens=4,
    tree_kv_cells=5,
    tool_calls=(CALL,),
)
DESCRIPTION = ModelDescription(
    name="name",
    engine="scripted",
    context_length=5,
    cost=ModelCost(
        parameters=1, attention_width=2, kv_width=3, kv_bytes_per_element=4, prices=TokenPrices(cached_prompt_usd=0.5)
    ),
    tokenizer="words",
    capabilities=frozenset({Capability.SEEDS, Capability.TOOLS}),
    shares_prompt=False,
)
VALUES = [
    REQUEST,
    DELTA,
    FINISHED,
    DESCRIPTION,
    Prefilled(1, 2, 3),
    TokenScores((-0.5,), 3, 2, 1),
    StepRewards((0.5, 1.0), 3, 2, 1),
    EngineHealth(is_ready=False, detail="why", tokens_per_s=1.25, requests=3),
]


def sent(hint: Any, value: Any) -> Any:
    """The value after its way through a frame."""
    blobs: Blobs = []
    data = packed(["message", encode(hint, value, blobs)], blobs)
    ((message, arrays),) = FrameReader().feed(data)
    return decode(hint, message[1], arrays)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_the_same_afterwards(value: Any) -> None:
    assert sent(type(value), value) == value


@pytest.mark.parametrize("value", VALUES[:4], ids=lambda value: type(value).__name__)
def test_the_example_sets_every_field_so_that_a_new_one_is_seen_here(value: Any) -> None:
    for field in dataclasses.fields(value):
        assert getattr(value, field.name) != field.default, f"{field.name} is not tried"


@pytest.mark.parametrize("event", [Prefilled(1, 1), DELTA, FINISHED], ids=lambda event: type(event).__name__)
def test_events_keep_their_kind(event: Any) -> None:
    data = json.loads(json.dumps(event_data(event, [])))
    assert event_of(data, []) == event


@pytest.mark.parametrize("shape", [(0, 3), (2, 3), (5, 1)])
def test_arrays_travel_as_bytes(shape: tuple[int, ...]) -> None:
    vectors = np.arange(math.prod(shape), dtype=np.float32).reshape(shape) / 3
    received = sent(Embeddings, Embeddings(vectors, 7))
    assert received.prompt_tokens == 7
    assert received.vectors.dtype == np.float32
    assert np.array_equal(received.vectors, vectors)
    assert received.vectors.shape == shape


def test_a_slice_of_an_array_travels_alone() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(sent(LogitRow, LogitRow(grid[:, 1], 1)).logits, [1, 5, 9])


def test_numbers_of_numpy_become_plain_ones() -> None:
    scores = sent(TokenScores, TokenScores((np.float32(-0.5), np.float64(-1)), 1))  # type: ignore[arg-type]
    assert scores.logprobs == (-0.5, -1.0)
    assert {type(value) for value in scores.logprobs} == {float}


@dataclass(frozen=True)
class Unsendable:
    """A monitor with a field of no known kind."""

    name: ClassVar[str] = "unsendable"
    num_logprobs: int
    target: object

    def watch(self) -> Any:
        raise AssertionError


class NoDataclass(Repetition):
    """A plain subclass of a dataclass keeps its fields."""


def test_a_subclass_of_a_monitor_keeps_its_class() -> None:
    request = dataclasses.replace(REQUEST, monitors=(NoDataclass(max_period=5),))
    assert type(sent(GenerateRequest, request).monitors[0]).__name__ == "NoDataclass"


@pytest.mark.parametrize("monitor", [Unsendable(0, print), print])
def test_a_monitor_that_cannot_travel_is_the_callers_mistake(monitor: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot be sent") as caught:
        encode(GenerateRequest, dataclasses.replace(REQUEST, monitors=(monitor,)), [])
    assert caught.value.field == "monitors"


def test_a_monitor_that_the_host_cannot_import_is_the_callers_mistake() -> None:
    data: list[Any] = encode(GenerateRequest, REQUEST, [])
    names = [field.name for field in dataclasses.fields(GenerateRequest)]
    data[names.index("monitors")] = [["no.such.module", "Monitor", []]]
    with pytest.raises(InvalidRequest, match=r"no\.such\.module"):
        decode(GenerateRequest, data, [])


def test_types_that_cannot_travel_are_refused_when_they_are_declared() -> None:
    for hint in (bytes, Prefilled | Delta, object):
        with pytest.raises(TypeError):
            codec_of(hint)


def test_calls_carry_their_arguments() -> None:
    prompt = Prompt((Message("user", "x"),))
    message = json.loads(json.dumps(call_message(3, "reward_steps", (prompt, ("a", "b")), {"num_known": 1}, [])))
    kind, number, name, given, named = message
    assert (kind, number, name) == ("call", 3, "reward_steps")
    assert called_with(name, given, named, []) == ([prompt, ("a", "b")], {"num_known": 1})


@pytest.mark.parametrize(
    "error",
    [
        EngineFailed("broken", model="m", is_retryable=False),
        ContextOverflow(model="m", prompt_tokens=9, context_length=5),
        UnknownName(kind="model", name="m", known=["a"]),
        InvalidRequest("odd", field="f", value={1, 2}),
    ],
)
def test_errors_keep_their_class_and_fields(error: TtcError) -> None:
    received = error_of(json.loads(json.dumps(error_data(error, model="m"))))
    assert type(received) is type(error)
    assert str(received) == str(error)
    fields: Mapping[str, object] = error.fields()
    for name in set(fields) - {"value"}:
        assert getattr(received, name) == getattr(error, name)


def test_any_other_error_is_a_failure_of_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    received = error_of(error_data(ZeroDivisionError("x" * 1000), model="m"))
    assert isinstance(received, EngineFailed)
    assert not received.is_retryable
    assert len(received.message) < 300
    assert "unexpected" in caplog.text
