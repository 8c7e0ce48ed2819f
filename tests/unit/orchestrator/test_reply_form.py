from __future__ import annotations

import pytest

from orchestrator.engine import Message
from orchestrator.job import JobSpec
from orchestrator.reply_form import FREE_FORM, ReplyForm, ToolCall, ToolOffer, canonical_calls

FORM = ReplyForm(
    stop=("Q:", "\n\n"),
    json_schema={"type": "object"},
    tools=ToolOffer(functions=({"name": "look", "parameters": {}},), choice="look", may_call_several=False),
    num_logprobs=3,
)


@pytest.mark.parametrize("form", [FREE_FORM, FORM, ReplyForm(stop=("x",))])
def test_a_form_survives_json(form: ReplyForm) -> None:
    assert ReplyForm.from_json(form.to_json()) == form


def test_a_job_keeps_its_form_and_the_calls_in_its_conversation() -> None:
    turns = (
        Message("user", "hello"),
        Message("assistant", "", (ToolCall("call_1", "look", '{"at": 1}'),)),
        Message("tool", "nothing there", tool_call_id="call_1"),
    )
    spec = JobSpec(problem="hello", messages=turns, policy="single", form=FORM)
    assert JobSpec.from_json(spec.to_json()) == spec


def test_a_job_of_before_there_were_forms_can_still_be_read() -> None:
    data = JobSpec(problem="hello", messages=(Message("user", "hello"),), policy="single").to_json()
    del data["form"]
    assert JobSpec.from_json(data).form == FREE_FORM


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        ('{"a": 1, "b": [2]}', '{ "b":[2],"a":1 }', True),
        ("", "{}", True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1', '{"a": 1}', False),
    ],
)
def test_calls_are_the_same_when_names_and_arguments_are(left: str, right: str, is_same: bool) -> None:
    one, two = (canonical_calls([ToolCall(name, "look", text)]) for name, text in (("a", left), ("b", right)))
    assert (one == two) is is_same
    assert one != canonical_calls([ToolCall("a", "listen", left)])
