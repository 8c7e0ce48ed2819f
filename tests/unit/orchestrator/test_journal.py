from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.actions import (
    Answer,
    AskHuman,
    CallTool,
    Cancel,
    Commit,
    Compute,
    Conclude,
    Embed,
    Expand,
    Next,
    Propose,
    Release,
    Score,
    Start,
    Stream,
)
from orchestrator.engine import Message
from orchestrator.errors import ReplayDiverged
from orchestrator.journal import Recording, decode_answer, digest, encode_action, encode_answer, roots_of
from orchestrator.monitors import AnswerComplete, Repetition
from orchestrator.sampling import GREEDY, Sampling
from orchestrator.store import JournalRow
from orchestrator.tree import Node

ROOT = Node(id="0", messages=(Message("user", "x"),))
SIDE = Node(id="r1", messages=(Message("user", "y"),))
CHILD = Node(id="1.0", parent=SIDE, text="t")

ACTIONS = [
    Expand([ROOT]),
    Expand([ROOT], 2),
    Expand([ROOT, ROOT], [1, 1]),
    Expand([SIDE]),
    Expand([ROOT], model="large"),
    Expand([ROOT], max_tokens=5),
    Expand([ROOT], sampling=GREEDY),
    Expand([ROOT], sampling=Sampling(temperature=0.5)),
    Expand([ROOT], stop=("a",)),
    Expand([ROOT], monitors=(AnswerComplete(),)),
    Expand([ROOT], monitors=(AnswerComplete(pattern="x"),)),
    Expand([ROOT], monitors=(Repetition(),)),
    Expand([ROOT], forced="Wait"),
    Expand([ROOT], num_logprobs=1),
    Start(Expand([ROOT])),
    Start(Expand([ROOT]), parallel=2),
    Start(Expand([ROOT]), order="arrival"),
    Next(Stream(0)),
    Next(Stream(1)),
    Cancel(Stream(0)),
    Score([ROOT]),
    Score([ROOT], "v"),
    Embed([ROOT]),
    Release(),
    Release([ROOT]),
    Propose(Answer("x")),
    Propose(Answer(None)),
    Propose(Answer("x", confidence=0.5, confidence_kind="verifier")),
    Commit(ROOT),
    Conclude(ROOT),
    Conclude(ROOT, "large"),
    Compute(sum, ([1],)),
    Compute(sum, ([2],)),
    Compute(max, ([1],)),
    CallTool(ROOT, "t"),
    CallTool(ROOT, "t", {"a": 1}),
    AskHuman("?"),
]


def test_different_actions_have_different_encodings_and_all_are_json() -> None:
    encoded = [encode_action(action) for action in ACTIONS]
    assert len({digest(data) for data in encoded}) == len(ACTIONS)
    for data in encoded:
        assert digest(json.loads(json.dumps(data))) == digest(data), "writing it down does not change it"


def test_one_number_of_samples_means_the_same_as_one_per_node() -> None:
    assert digest(encode_action(Expand([ROOT, SIDE], 2))) == digest(encode_action(Expand((ROOT, SIDE), (2, 2))))


def test_conversations_a_policy_opened_itself_are_written_once() -> None:
    assert roots_of(Expand([ROOT])) == []
    assert [root["id"] for root in roots_of(Expand([ROOT, CHILD, SIDE]))] == ["r1"]
    for action in (Score([CHILD]), Embed([CHILD]), Conclude(CHILD), Commit(CHILD), Start(Expand([CHILD]))):
        assert [root["id"] for root in roots_of(action)] == ["r1"]
    assert roots_of(Next(Stream(0))) == []


@given(
    text=st.none() | st.text(),
    confidence=st.none() | st.floats(0, 1),
    rivals=st.lists(st.tuples(st.text(), st.floats(0, 1)), max_size=3),
)
def test_answers_survive_being_written_down(text: str | None, confidence: float | None, rivals: Any) -> None:
    kind = None if confidence is None else "calibrated"
    answer = Answer(text, CHILD, confidence, kind, tuple(rivals))
    again = decode_answer(json.loads(json.dumps(encode_answer(answer))), {"1.0": CHILD})
    assert again == answer


def rows(*kinds: tuple[str, dict[str, Any]]) -> list[JournalRow]:
    return [JournalRow(seq, kind, data) for seq, (kind, data) in enumerate(kinds)]


EXPAND = encode_action(Expand([ROOT], 2))


def test_an_empty_journal_holds_nothing() -> None:
    recording = Recording()
    assert recording.next_seq == 0
    assert recording.open_requests() == []
    assert recording.check(0, EXPAND) is None
    assert recording.actions.get(0) is None, "looking does not add"


def test_another_action_at_a_position_has_diverged_and_both_are_shown() -> None:
    recording = Recording(rows(("begin", {"a": 0, "action": EXPAND})))
    assert recording.check(0, EXPAND) is not None
    with pytest.raises(ReplayDiverged) as caught:
        recording.check(0, encode_action(Expand([ROOT], 3)))
    assert caught.value.fields()["position"] == 0
    assert "[2]" in str(caught.value)
    assert "[3]" in str(caught.value)


def test_requests_are_open_until_their_samples_are_settled_or_lost() -> None:
    begin = ("begin", {"a": 0, "action": EXPAND})
    sent = ("dispatch", {"a": 0, "r": "q", "units": [0, 1], "grants": [9, 9], "prompt": 5})
    first = ("sample", {"a": 0, "i": 0, "usage": {"output_tokens": 3}, "node": {}})
    second = ("sample", {"a": 0, "i": 1, "usage": {"output_tokens": 4}, "node": {}})
    ((position, request, units),) = Recording(rows(begin, sent, first)).open_requests()
    assert (position, request.data["r"], units) == (0, "q", [1])
    assert Recording(rows(begin, sent, first, second)).open_requests() == []
    lost = ("lost", {"usage": {"output_tokens": 70, "lost_tokens": 70}, "requests": ["q"]})
    closed = Recording(rows(begin, sent, first, lost))
    assert closed.open_requests() == []
    assert closed.usage.output_tokens == 73
    assert closed.usage.lost_tokens == 70


def test_a_sample_that_was_tried_again_belongs_to_its_last_request() -> None:
    sent = [("dispatch", {"a": 0, "r": r, "units": units, "grants": [9]}) for r, units in (("q", [0, 1]), ("q2", [1]))]
    found = Recording(rows(*sent)).open_requests()
    assert [(request.data["r"], units) for _, request, units in found] == [("q", [0]), ("q2", [1])]


def test_the_last_mark_counts_and_the_clock_is_the_latest_time() -> None:
    journal = rows(
        ("dispatch", {"a": 0, "r": "q", "units": [0], "grants": [99]}),
        ("mark", {"a": 0, "r": "q", "tokens": {"0": 16}, "t": 1.5}),
        ("mark", {"a": 0, "r": "q", "tokens": {"0": 32}, "t": 2.5}),
    )
    recording = Recording(journal)
    ((_, request, _),) = recording.open_requests()
    assert request.mark["tokens"] == {"0": 32}
    assert recording.elapsed_s == 2.5
    assert recording.next_seq == 3


def test_work_of_verifiers_is_open_until_their_action_is_done() -> None:
    sent = ("dispatch", {"a": 3, "r": "v", "units": [], "reserved": {"output_tokens": 1}})
    assert len(Recording(rows(sent)).open_requests()) == 1
    done = ("done", {"a": 3, "action": encode_action(Score([ROOT])), "outcome": {}})
    assert Recording(rows(sent, done)).open_requests() == []
