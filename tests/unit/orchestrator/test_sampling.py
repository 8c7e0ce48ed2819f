"""Sampling parameters and the seeds of samples."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.sampling import GREEDY, Sampling, derived_seed


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("temperature", -0.1, "from 0 to 5"),
        ("temperature", 5.1, "from 0 to 5"),
        ("temperature", math.nan, "from 0 to 5"),
        ("top_k", -1, "0 (off) or more"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.1, "above 0 and at most 1"),
        ("min_p", 1.0, "at least 0 and below 1"),
        ("min_p", -0.1, "at least 0 and below 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any, allowed: str):
    with pytest.raises(InvalidRequest) as caught:
        Sampling(**{field: value})
    assert str(caught.value) == f"{field} must be {allowed}, not {value}"
    assert caught.value.field == field


@pytest.mark.parametrize("fields", [{"temperature": 5}, {"top_p": 1}, {"min_p": 0}, {"top_k": 10**6}])
def test_the_ends_of_the_ranges_are_allowed(fields: dict[str, Any]):
    Sampling(**fields)


def test_temperature_zero_is_greedy():
    assert GREEDY.is_greedy
    assert not Sampling().is_greedy


@given(seed=st.integers(), parts=st.lists(st.integers() | st.text(), max_size=4))
def test_a_seed_is_a_32_bit_number_and_repeats(seed: int, parts: list[int | str]):
    assert 0 <= derived_seed(seed, *parts) < 2**32
    assert derived_seed(seed, *parts) == derived_seed(seed, *parts)


def test_seeds_are_the_same_in_every_process_and_version():
    assert derived_seed(0) == 872845860
    assert derived_seed(7, "3.1", 0) == 770695356


def test_seeds_of_different_places_differ():
    """10,000 places: about 0.01 collisions are expected in 2**32 seeds, so one is a failure."""
    seeds = {derived_seed(seed, action, sample) for seed in (0, 1) for action in range(100) for sample in range(50)}
    assert len(seeds) == 10_000


def test_parts_are_told_apart():
    assert derived_seed(1, "2", "3") != derived_seed(1, "23") != derived_seed(12, "3")
