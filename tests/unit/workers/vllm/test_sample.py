"""A sample ends where it should, and holds where its reader is behind."""

from __future__ import annotations

from typing import Any

from orchestrator.engine import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prefilled,
    Prompt,
    SampleSpec,
    TokenAlternatives,
)
from orchestrator.testing.engine_contract import CutAt
from orchestrator.workers.vllm.outbox import Outbox
from orchestrator.workers.vllm.sample import Sample, Top, tops_of

END = 0


class Letters:
    """Token n is the n-th letter; 0 ends a turn."""

    end_ids = frozenset({END})

    def piece(self, token: int) -> bytes:
        return b"\xc3" if token == 90 else b"\xa9" if token == 91 else bytes([96 + token])


class Written:
    """A sample and what its reader gets."""

    def __init__(self, *, limit: int = 50, max_unread: int = 32, **fields: Any) -> None:
        request = GenerateRequest(
            request_id="r", prompt=Prompt((Message("user", "?"),)), samples=(SampleSpec(1, limit),), **fields
        )
        self.outbox = Outbox(1, max_unread_tokens=max_unread)
        self.outbox.begin(Prefilled(1))
        vocabulary: Any = Letters()
        self.sample = Sample(0, request.samples[0], request, limit=limit, vocabulary=vocabulary, outbox=self.outbox)

    async def events(self) -> list[object]:
        self.outbox.close()
        events: list[object] = []
        while (event := await self.outbox.get()) is not None:
            events.append(event)
        return events[1:]

    async def end(self) -> tuple[str, Finished]:
        *deltas, last = await self.events()
        assert isinstance(last, Finished)
        assert sum(delta.num_tokens for delta in deltas if isinstance(delta, Delta)) == last.output_tokens
        return "".join(delta.text for delta in deltas if isinstance(delta, Delta)), last


async def test_an_end_of_turn_counts_but_has_no_id():
    written = Written()
    written.sample.take([1, 2, END, 3], None)
    assert await written.end() == ("ab", Finished(0, FinishReason.END, 3))
    assert written.sample.ids == [1, 2]
    assert written.sample.num_dropped == 1


async def test_guesses_beyond_a_stop_string_are_dropped():
    written = Written(stop=("bc",))
    written.sample.take([1, 2], None)
    written.sample.take([3, 4, 5], None)
    assert await written.end() == ("abc", Finished(0, FinishReason.STOP, 3, "bc"))


async def test_a_monitor_cuts_within_a_batch_and_the_limit_at_its_end():
    written = Written(monitors=(CutAt(2),))
    written.sample.take([1, 2, 3], None)
    assert await written.end() == ("ab", Finished(0, FinishReason.MONITOR, 2, "cut_at"))
    written = Written(limit=3)
    written.sample.take([1, 2, 3, 4], None)
    assert await written.end() == ("abc", Finished(0, FinishReason.LENGTH, 3))


async def test_a_character_that_is_cut_off_becomes_a_replacement():
    written = Written(limit=1)
    written.sample.take([90], None)
    assert await written.end() == ("\ufffd", Finished(0, FinishReason.LENGTH, 1))
    written = Written(limit=2)
    written.sample.take([90], None)
    written.sample.take([91], None)
    assert (await written.end())[0] == "é"


def test_a_sample_whose_reader_is_behind_is_held_until_there_is_room():
    written = Written(max_unread=4)
    written.sample.take([1, 2, 3, 4, 5, 6], None)
    assert written.sample.is_held
    assert not written.sample.is_over
    assert written.sample.ids == [1, 2, 3, 4]
    assert written.sample.num_dropped == 2


def test_a_sample_with_a_grammar_is_not_held():
    written = Written(max_unread=4, grammar="root ::= [a-z]+")
    written.sample.take([1, 2, 3, 4, 5, 6], None)
    assert not written.sample.is_held
    assert written.sample.output_tokens == 6


async def test_log_probabilities_go_with_the_tokens_that_have_ids():
    written = Written(num_logprobs=1)
    row = Top(-0.5, (1, 2), (-0.5, -1.5))
    written.sample.take([1, END], [row, row])
    delta, last = await written.events()
    assert isinstance(delta, Delta)
    assert isinstance(last, Finished)
    assert delta.logprobs == (-0.5,)
    assert delta.alternatives == (TokenAlternatives((1,), (-0.5,)),)


def test_rows_begin_with_the_token_that_was_sampled():
    class Flat:
        start_indices, end_indices = (0, 3), (3, 6)
        token_ids = (7, 1, 2, 1, 1, 7)
        logprobs = (-3.0, -1.0, -2.0, -1.0, -1.0, -4.0)

    assert tops_of(Flat(), count=2) == [Top(-3.0, (1, 2), (-1.0, -2.0)), Top(-1.0, (1, 7), (-1.0, -4.0))]
    assert tops_of(Flat(), count=1) == [Top(-3.0, (1,), (-1.0,)), Top(-1.0, (1,), (-1.0,))]
