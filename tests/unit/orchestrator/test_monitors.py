import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.monitors import AnswerComplete, ConfidenceFloor, Monitor, Repetition


def cut_at(monitor: Monitor, tokens: Sequence[int]) -> int | None:
    """Index of the token after which the monitor cuts."""
    watcher = monitor.watch()
    return next((index for index, token in enumerate(tokens) if watcher.sees("", token, ())), None)


def repeats_by_definition(rule: Repetition, tokens: Sequence[int]) -> bool:
    """Whether the tokens end in a pattern of at most `max_period`, often and long enough; straight from the docs."""
    for period in range(1, rule.max_period + 1):
        covered = max(rule.min_tokens, rule.min_repeats * period)
        if period < len(tokens) and covered <= len(tokens):
            tail = tokens[len(tokens) - covered :]
            if all(tail[index] == tail[index - period] for index in range(period, covered)):
                return True
    return False


RULES = st.builds(
    Repetition, max_period=st.integers(1, 5), min_tokens=st.integers(2, 12), min_repeats=st.integers(2, 4)
)


@given(RULES, st.lists(st.integers(0, 2), max_size=40))
def test_repetition_cuts_exactly_where_the_definition_says(rule, tokens):
    expected = next((index for index in range(len(tokens)) if repeats_by_definition(rule, tokens[: index + 1])), None)
    assert cut_at(rule, tokens) == expected


@given(RULES, st.lists(st.integers(0, 2), max_size=10), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_a_pattern_repeated_for_long_is_always_cut(rule, before, pattern):
    if len(pattern) <= rule.max_period:
        assert cut_at(rule, before + pattern * 20) is not None


def test_watchers_of_one_monitor_share_no_state():
    rule = Repetition(max_period=1, min_tokens=3, min_repeats=2)
    first, second = rule.watch(), rule.watch()
    assert not first.sees("", 1, ())
    assert not first.sees("", 1, ())
    assert not second.sees("", 1, ())
    assert first.sees("", 1, ())


@given(st.text(alphabet="a{}\\boxed ", max_size=30), st.text(alphabet="x{}1", max_size=12))
def test_a_boxed_answer_is_complete_with_the_brace_that_closes_it(before, content):
    balanced = content.replace("{", "").replace("}", "")
    watcher = AnswerComplete().watch()
    start = before.replace("\\boxed{", "") + " \\boxed{" + balanced
    assert not watcher.sees(start, 0, ())
    assert watcher.sees(start + "}", 0, ())
    assert not watcher.sees(start + "{}", 0, ())
    assert watcher.sees(start + "{}}", 0, ())


def test_a_pattern_is_searched_at_the_end_of_the_text_only():
    watcher = AnswerComplete(pattern=r"#### \d+\n").watch()
    assert not watcher.sees("#### 5", 0, ())
    assert watcher.sees("#### 5\n", 0, ())
    assert not watcher.sees("#### 5\n" + "x" * 400, 0, ())


@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.floats(-1, 12),
    st.lists(st.lists(st.floats(-10, 0), min_size=1, max_size=4), max_size=30),
)
def test_confidence_is_the_mean_over_full_windows(window, top_k, floor, positions):
    rule = ConfidenceFloor(floor=floor, window=window, top_k=top_k)
    watcher = rule.watch()
    confidences = [-math.fsum(position[:top_k]) / len(position[:top_k]) for position in positions]
    for index, position in enumerate(positions):
        is_cut = watcher.sees("", 0, position)
        group = confidences[index + 1 - window : index + 1] if index + 1 >= window else []
        if not group:
            assert not is_cut
        elif abs(math.fsum(group) / window - floor) > 1e-9:
            assert is_cut == (math.fsum(group) / window < floor)


def test_a_token_without_log_probabilities_is_not_judged():
    watcher = ConfidenceFloor(floor=100.0, window=1).watch()
    assert not watcher.sees("", 0, ())
    assert watcher.sees("", 0, (-1.0,))


@pytest.mark.parametrize(
    ("monitor", "needed"), [(Repetition(), 0), (AnswerComplete(), 0), (ConfidenceFloor(floor=1.0, top_k=7), 7)]
)
def test_monitors_say_what_they_need(monitor, needed):
    assert monitor.num_logprobs == needed
