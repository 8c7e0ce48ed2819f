"""Prompts: about as long as wanted, alike where the trace says so and nowhere else."""

from pathlib import Path

import pytest

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.prompts import ProblemPrompts, SyntheticPrompts, read_problem_texts
from orchestrator.bench.load.traces import BLOCK_TOKENS
from orchestrator.errors import InvalidRequest


def common_prefix_words(left: str, right: str) -> int:
    pairs = zip(left.split(), right.split(), strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(left.split()))


@pytest.mark.parametrize("wanted", [30, 513, 3000])
def test_synthetic_prompts_have_about_as_many_words_as_tokens_are_wanted(wanted: int):
    text = SyntheticPrompts(0).text(0, Arrival(0.0, wanted, 1))
    assert abs(len(text.split()) - wanted) <= 5


def test_the_shortest_prompt_still_asks_something():
    assert SyntheticPrompts(0).text(0, Arrival(0.0, 0, 1)).strip()


def test_the_same_hash_ids_give_the_same_blocks_and_only_them():
    """Two requests share blocks 7 and 8 of 512 words, and then go their own ways."""
    prompts = SyntheticPrompts(3)
    one = prompts.text(0, Arrival(0.0, 3 * BLOCK_TOKENS + 100, 1, blocks=(7, 8, 9, 10)))
    other = prompts.text(1, Arrival(0.0, 4 * BLOCK_TOKENS, 1, blocks=(7, 8, 11, 12)))
    shared = common_prefix_words(one, other)
    assert 2 * BLOCK_TOKENS <= shared < 2 * BLOCK_TOKENS + 5


def test_a_block_that_is_only_begun_is_not_shared():
    prompts = SyntheticPrompts(3)
    one, other = (prompts.text(index, Arrival(0.0, BLOCK_TOKENS + 200, 1, blocks=(1, 2))) for index in range(2))
    assert BLOCK_TOKENS <= common_prefix_words(one, other) < BLOCK_TOKENS + 5


def test_requests_without_blocks_share_no_prefix_and_are_the_same_in_every_run():
    arrival = Arrival(0.0, 200, 1)
    texts = [SyntheticPrompts(1).text(index, arrival) for index in range(10)]
    assert max(common_prefix_words(one, other) for one in texts for other in texts if one is not other) < 5
    assert texts[4] == SyntheticPrompts(1).text(4, arrival)
    assert texts[4] != SyntheticPrompts(2).text(4, arrival)


def test_problems_are_asked_in_turn_in_a_drawn_order(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "one?"}\n{"problem": "two?"}\n{"prompt": "three?"}\n')
    texts = read_problem_texts(path)
    assert texts == ["one?", "two?", "three?"]
    prompts = ProblemPrompts(texts, seed=1)
    asked = [prompts.text(index, Arrival(0.0, 0, 1)) for index in range(6)]
    assert sorted(asked[:3]) == sorted(texts)
    assert asked[:3] == asked[3:]


def test_a_line_without_a_problem_is_named(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "one?"}\n{"answer": "2"}\n')
    with pytest.raises(InvalidRequest, match="line 2 has none of the fields"):
        read_problem_texts(path)
