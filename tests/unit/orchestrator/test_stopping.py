from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import FinishReason
from orchestrator.monitors import Repetition
from orchestrator.stopping import SampleText

LETTERS = "ab\n\u00e9\u20ac\U0001f600"  # one to four bytes each


@st.composite
def pieces_of(draw, texts) -> tuple[str, list[bytes]]:
    """A text and its bytes split into tokens at arbitrary places, within characters too."""
    text = draw(texts)
    data = text.encode()
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=len(data))))
    bounds = [0, *(cut for cut in cuts if cut < len(data)), len(data)]
    return text, [data[start:end] for start, end in pairwise(bounds)]


TEXTS = st.text(alphabet=LETTERS, max_size=20)
STOPS = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=3)


@given(pieces_of(TEXTS), STOPS)
def test_a_sample_stops_with_the_token_that_completes_a_stop_string(split, stops):
    text, pieces = split
    sample = SampleText(stop=stops)
    data = b""
    for piece in pieces:
        data += piece
        ending = sample.push(piece, 0)
        whole = data.decode(errors="ignore")  # an unfinished last character is held back
        assert sample.text == whole
        found = [stop for stop in stops if stop in whole]
        assert (ending is not None) == bool(found)
        if ending is not None:
            assert ending.reason is FinishReason.STOP
            assert ending.detail in found
            return
    sample.finish()
    assert sample.text == text


@given(st.lists(st.binary(max_size=6), max_size=10))
def test_any_bytes_become_text_and_nothing_is_taken_twice(pieces):
    sample = SampleText()
    taken = ""
    for piece in pieces:
        assert sample.push(piece, 0) is None
        taken += sample.take()
        assert taken == sample.text
    sample.finish()
    taken += sample.take()
    assert taken == sample.text == b"".join(pieces).decode(errors="replace")
    assert sample.take() == ""


@given(pieces_of(TEXTS))
def test_an_incomplete_character_at_the_end_becomes_a_replacement_character(split):
    text, pieces = split
    sample = SampleText()
    for piece in [*pieces, "\u20ac".encode()[:2]]:
        sample.push(piece, 0)
    assert sample.text == text
    sample.finish()
    assert sample.text == text + "\ufffd"


@dataclass(frozen=True)
class Counting:
    """Cuts at the n-th token; counts what it sees."""

    limit: int
    seen: list[tuple[str, int | str, int]]
    name: ClassVar[str] = "counting"
    num_logprobs: ClassVar[int] = 2

    def watch(self) -> "Counting":
        return self

    def sees(self, text, token, top_logprobs):
        self.seen.append((text, token, len(top_logprobs)))
        return len(self.seen) >= self.limit


def test_a_monitor_cuts_at_its_token_and_all_monitors_see_it():
    first, second = Counting(2, []), Counting(2, [])
    sample = SampleText(monitors=[first, second, Repetition()])
    assert sample.push(b"a", 7, top_logprobs=(-1.0, -2.0)) is None
    ending = sample.push(b"b", "b")
    assert ending == (FinishReason.MONITOR, "counting")
    assert first.seen == second.seen == [("a", 7, 2), ("ab", "b", 0)]


def test_a_stop_string_comes_before_a_monitor():
    sample = SampleText(stop=["b"], monitors=[Counting(1, [])])
    assert sample.push(b"ab", 0) == (FinishReason.STOP, "b")
