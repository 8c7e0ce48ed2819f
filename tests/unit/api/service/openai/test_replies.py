from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Budget, Orchestrator, Result
from orchestrator.api.service.openai.replies import Choice, choices_of, told, usage_of, valid_choices
from orchestrator.errors import EngineFailed, NoAnswer
from orchestrator.events import Event
from orchestrator.isolation import KillablePool
from orchestrator.reply_form import FREE_FORM, ReplyForm
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.scripts import babble

REPLIES = ["I say 1", "I say 2", "again 2", "I say 3"]


async def ended(script: Any = REPLIES, problem: str = "which?", **options: Any) -> Result:
    """How a job ends, whatever that is."""
    seen: list[Event] = []
    async with Orchestrator(ScriptedEngine(script)) as ttc:
        try:
            await ttc.solve(problem, **{"answer": "open", **options}, on_event=seen.append)
        except Exception:
            assert seen, "it has started"
    result: Result = seen[-1].data["result"]
    return result


async def test_the_first_choice_is_a_whole_sample_of_the_class_that_won() -> None:
    result = await ended(policy="self_consistency", params={"n": 40})
    choices = choices_of(result, FREE_FORM, n=9, is_single=False)
    assert choices[0].answer == result.text == "2", "two of four replies say so"
    assert {choice.text for choice in choices} < set(REPLIES)
    assert [choice.answer for choice in choices[1:]] == [text for text, _ in result.answer.alternatives]
    assert choices_of(result, FREE_FORM, n=1, is_single=False) == choices[:1]


async def test_usage_counts_everything_and_says_what_is_not_shown() -> None:
    result = await ended(policy="self_consistency", params={"n": 8})
    choices = choices_of(result, FREE_FORM, n=1, is_single=False)
    usage = usage_of(result, choices)
    shown = choices[0].node
    assert shown is not None
    assert usage["completion_tokens"] == result.usage.output_tokens
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    details = usage["completion_tokens_details"]
    assert details["reasoning_tokens"] == usage["completion_tokens"] - shown.output_tokens
    roles = told(result, policy="x", seed=1, sampling={})["tokens_by_role"]
    assert roles == {"generators": {"scripted": usage["completion_tokens"]}, "verifiers": {}}


async def test_independent_replies_keep_their_order() -> None:
    result = await ended(policy="single", params={"n": 4, "temperature": 1.0})
    texts = [choice.text for choice in choices_of(result, FREE_FORM, n=4, is_single=True)]
    assert texts == [result.tree[f"1.{index}"].text for index in range(4)]


async def test_a_job_that_was_cut_off_shows_what_there_is() -> None:
    result = await ended(babble(), policy="self_consistency", budget=Budget(max_output_tokens=40))
    assert isinstance(result.error, NoAnswer)
    choice = choices_of(result, FREE_FORM, n=1, is_single=False)[0]
    assert (choice.finish, choice.answer) == ("length", None)
    assert choice.text


async def test_a_job_that_failed_has_no_choices() -> None:
    engine = ScriptedEngine("x")
    engine.die(100)
    seen: list[Event] = []
    async with Orchestrator(engine) as ttc:
        with pytest.raises(EngineFailed):
            await ttc.solve("why?", policy="single", on_event=seen.append)
    with pytest.raises(EngineFailed):
        choices_of(seen[-1].data["result"], FREE_FORM, n=1, is_single=True)


async def test_what_was_put_before_a_reply_is_not_said_again() -> None:
    form = ReplyForm(prefix="I ")
    result = await ended("I say 1", policy="single", form=form)
    assert choices_of(result, form, n=1, is_single=True)[0].text == "say 1"


async def test_json_is_found_in_the_text_around_it_or_not_at_all() -> None:
    pool = KillablePool()
    form = ReplyForm(json_schema={"type": "object", "required": ["a"]})

    def choice(text: str, answer: str | None, finish: str = "stop") -> Choice:
        return Choice(text=text, answer=answer, finish=finish)

    try:
        good = await valid_choices([choice('So: {"a": 1}.', '{"a": 1}'), choice('{"b": 1}', '{"b": 1}')], form, pool)
        assert [one.text for one in good] == ['{"a": 1}']
        cut = choice('{"a": ', None, "length")
        assert await valid_choices([cut], form, pool) == [cut]
        with pytest.raises(NoAnswer, match="'a' is a required property"):
            await valid_choices([choice('{"b": 1}', '{"b": 1}')], form, pool)
    finally:
        await pool.aclose()


async def test_a_schema_cannot_keep_the_service_busy_or_make_it_call_anybody() -> None:
    doubling: dict[str, Any] = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    doubling["d40"] = {"type": "object"}
    hostile = {"$ref": "#/$defs/d0", "$defs": doubling}
    pool = KillablePool()
    try:
        for schema in (hostile, {"$ref": "http://127.0.0.1:9/schema"}):
            with pytest.raises(NoAnswer, match="cannot be held against"):
                await valid_choices(
                    [Choice(text="{}", answer="{}", finish="stop")], ReplyForm(json_schema=schema), pool
                )
    finally:
        await pool.aclose()
