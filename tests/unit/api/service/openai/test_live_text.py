from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.api.service.openai.live_text import LiveText
from orchestrator.errors import EngineFailed


def entry(token: str) -> dict[str, object]:
    return {"token": token, "logprob": -1.0, "top": []}


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    live = LiveText(["END"])
    assert live.take("one E").text == "one"
    assert live.take("N").text == " "
    assert live.take("X two EN").text == "ENX two "
    assert live.take("D three").text == ""
    assert live.take("four").text == ""
    assert live.rest("one ENX two ").text == ""


@settings(max_examples=50, deadline=None)
@given(st.text("abE", max_size=30), st.lists(st.sampled_from(["E", "Eb", "aE", "bbE"]), max_size=3), st.data())
def test_what_is_sent_never_has_to_be_taken_back(text: str, stops: list[str], data: st.DataObject) -> None:
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    whole = text[: min(ends)] if ends else text
    live = LiveText(stops)
    sent, rest = "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        sent += live.take(rest[:size]).text
        rest = rest[size:]
        assert whole.startswith(sent)
    assert sent + live.rest(whole).text == whole


def test_log_probabilities_come_with_the_text_of_their_tokens() -> None:
    live = LiveText(["zz"])
    first = live.take("ab", [entry("a"), entry("b")])
    second = live.take("cd", [entry("cd")])
    last = live.rest("abcd")
    assert [first.text, second.text, last.text] == ["a", "bc", "d"]
    tokens = [[one["token"] for one in piece.logprobs] for piece in (first, second, last)]
    assert tokens == [["a"], ["b"], ["cd"]]


def test_a_reply_that_is_begun_again_goes_on_where_it_was() -> None:
    live = LiveText()
    assert live.take("one two").text == "one two"
    live.start_over()
    assert live.take("one ").text == ""
    assert live.take("two three").text == " three"
    assert live.rest("one two three.").text == "."


def test_a_reply_that_is_begun_again_with_other_words_is_a_failure() -> None:
    live = LiveText()
    live.take("one two")
    live.start_over()
    with pytest.raises(EngineFailed, match="other words"):
        live.take("two")
    with pytest.raises(EngineFailed, match="other words"):
        live.rest("something else")
