from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.controller.told_logprobs import told_logprobs
from orchestrator.engine import Capability, Delta, FinishReason, GenerateRequest, TokenAlternatives
from orchestrator.errors import CapabilityMissing
from orchestrator.reply_form import ReplyForm, ToolCall, ToolOffer
from orchestrator.testing.scripted import ALL_CAPABILITIES
from orchestrator.testing.scripts import Reply

from .jobs import an_engine, run_job

OFFER = ToolOffer(functions=({"name": "look"},))


def calling(arguments: str) -> Reply:
    return Reply(text="", tool_calls=(ToolCall(f"call_{len(arguments)}", "look", arguments),))


async def test_a_stop_string_of_the_caller_ends_a_complete_reply_before_it() -> None:
    engine = an_engine("The answer is 7. Q: And what is")
    form = ReplyForm(stop=("Q:",))
    ran = await run_job("self_consistency", engine, params={"n": 2}, form=form, answer="number")
    nodes = [node for node in ran.result.tree if not node.is_root]
    assert [(node.text, node.finish, node.answer) for node in nodes] == [
        ("The answer is 7. ", FinishReason.END, "7")
    ] * 2
    assert ran.result.text == "7"


async def test_demands_reach_the_engine_but_not_where_an_answer_is_only_concluded() -> None:
    engine = an_engine("I cannot say", capabilities=[*ALL_CAPABILITIES, Capability.GRAMMAR])
    form = ReplyForm(stop=("Q:",), json_schema={"type": "object"}, num_logprobs=2)
    await run_job("single", engine, form=form, replays=False)
    first, *others = engine.log
    assert (first.stop, first.json_schema, first.num_logprobs) == (("Q:",), {"type": "object"}, 2)
    assert others, "an answer was concluded"
    assert all((other.stop, other.json_schema, other.num_logprobs) == ((), None, 0) for other in others)


async def test_a_schema_is_left_to_its_reader_where_the_engine_has_no_grammars() -> None:
    engine = an_engine("{}")
    await run_job("single", engine, form=ReplyForm(json_schema={"type": "object"}), answer="json")
    assert engine.log[0].json_schema is None


async def test_calls_of_tools_vote_by_name_and_arguments() -> None:
    replies = [calling('{"at": 1, "of": 2}'), calling('{"at": 3}'), calling('{"of":2,"at":1}')]

    def script(_: Any, seed: int) -> Reply:
        return replies[seed % 3]

    ran = await run_job("self_consistency", an_engine(script), params={"n": 12}, form=ReplyForm(tools=OFFER))
    node = ran.result.answer.node
    assert node is not None
    classes = {sample.answer_class for sample in ran.result.tree if not sample.is_root}
    assert len(classes) == 2, "the order of arguments makes no difference"
    assert (node.finish, node.tool_calls[0].name) == (FinishReason.TOOL_CALL, "look")
    assert ran.result.text == node.answer


async def test_tools_are_refused_where_the_engine_has_none() -> None:
    engine = an_engine("x", capabilities=ALL_CAPABILITIES - {Capability.TOOLS})
    async with Orchestrator(engine) as ttc:
        with pytest.raises(CapabilityMissing, match="tool calls"):
            await ttc.solve("look", policy="single", form=ReplyForm(tools=OFFER))
    assert not engine.log, "it is known before anything is asked"


async def test_a_reply_begins_with_what_was_put_before_it() -> None:
    engine = an_engine("Once upon a time there was a 7.")
    ran = await run_job("self_consistency", engine, params={"n": 2}, form=ReplyForm(prefix="Once upon"))
    assert engine.log[0].prompt.continuation_text == "Once upon"
    assert [node.text for node in ran.result.tree if not node.is_root] == ["Once upon a time there was a 7."] * 2


async def test_single_takes_more_samples_than_its_answer_needs() -> None:
    replies = ["one", "two", "three"]
    ran = await run_job("single", an_engine(replies), params={"n": 5, "temperature": 1.0}, answer="text")
    texts = [node.text for node in ran.result.tree if not node.is_root]
    assert len(texts) == 5
    assert ran.result.text == texts[0]
    assert "".join(event.data["text"] for event in ran.events if event.kind == "answer_delta") == texts[0]


async def test_log_probabilities_are_told_token_by_token() -> None:
    form = ReplyForm(num_logprobs=2)
    ran = await run_job("single", an_engine("The answer is 7"), form=form, answer="text")
    told = [entry for event in ran.events if event.kind == "answer_delta" for entry in event.data["logprobs"]]
    assert "".join(entry["token"] for entry in told) == "The answer is 7"
    assert all(entry["logprob"] < 0 and len(entry["top"]) == 2 for entry in told)


def test_a_server_tells_the_texts_of_tokens_itself() -> None:
    class Remote:
        def generate(self, request: GenerateRequest) -> None: ...

    delta = Delta(0, "ab", 2, None, (-1.0, -2.0), (TokenAlternatives(("a",), (-1.0,)),) * 2, ("a", "b"))
    assert told_logprobs(Remote(), delta) == [  # type: ignore[arg-type]  # it is asked for nothing
        {"token": "a", "logprob": -1.0, "top": [["a", -1.0]]},
        {"token": "b", "logprob": -2.0, "top": [["a", -1.0]]},
    ]
