"""Cost models against their formulas, written down a second way, and against published numbers."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cost import (
    KINETICS_INTENSITY,
    IdealisedRuntime,
    ModelCost,
    TokenPrices,
    kinetics_flops,
    kinetics_sparse_flops,
)

# A model of eight billion parameters: 32 layers, 32 query heads and 8 key-value heads of dimension 128.
P, H, H_KV = 8_000_000_000, 32 * 128 * 32, 8 * 128 * 32
MODEL = ModelCost(parameters=P, attention_width=H, kv_width=H_KV)
LENGTHS = st.integers(0, 3000)


def test_a_token_of_that_model_takes_128_kib_of_cache():
    assert MODEL.kv_bytes_per_token == 131_072


def test_flops_are_two_per_parameter_and_four_per_attended_pair_and_unit_of_width():
    prompt, output = 512, 100
    assert MODEL.flops(start=prompt, num_tokens=output) == 2 * P * output + 2 * H * output * (2 * prompt + output)


@given(start=LENGTHS, first=LENGTHS, second=LENGTHS)
def test_flops_do_not_depend_on_where_a_text_is_split(start: int, first: int, second: int):
    whole = MODEL.flops(start=start, num_tokens=first + second)
    parts = MODEL.flops(start=start, num_tokens=first) + MODEL.flops(start=start + first, num_tokens=second)
    assert whole == parts


@pytest.mark.parametrize(("prompt", "output", "trials"), [(512, 1024, 1), (512, 1024, 16), (0, 10, 3), (4096, 1, 8)])
def test_kinetics_is_compute_plus_weighted_memory(prompt: int, output: int, trials: int):
    compute = trials * (2 * P * output + 2 * H * output * (2 * prompt + output))
    memory = 2 * H_KV * output * (2 * prompt + trials * output)
    result = kinetics_flops(MODEL, prompt_tokens=prompt, output_tokens=output, num_samples=trials)
    assert result == pytest.approx(compute + 562.5 * memory, rel=1e-12)
    assert KINETICS_INTENSITY == 562.5


@given(prompt=LENGTHS, lengths=st.lists(st.integers(0, 60), max_size=6))
def test_cache_reads_are_the_sum_over_decoding_steps(prompt: int, lengths: list[int]):
    """At step t + 1/2 each live sample reads its own t + 1/2 tokens, and the prompt is read once if any lives."""
    read = Fraction(0)
    for step in range(max(lengths, default=0)):
        live = sum(length > step for length in lengths)
        read += prompt + live * Fraction(2 * step + 1, 2)
    expected = read * MODEL.kv_bytes_per_token
    assert MODEL.kv_read_bytes(prompt_tokens=prompt, output_lengths=lengths) == expected


@given(prompt=st.integers(0, 200), output=st.integers(0, 300), kv_budget=st.integers(1, 300), trials=st.integers(1, 4))
def test_sparse_attention_is_the_direct_sum_of_what_each_token_attends_to(
    prompt: int, output: int, kv_budget: int, trials: int
):
    """Token t attends to min(b, L_i + t) others; t runs over midpoints, where the sum is exact."""
    if output < kv_budget - prompt:
        with pytest.raises(ValueError, match=f"must be at least kv_budget - prompt_tokens = {kv_budget - prompt}"):
            kinetics_sparse_flops(
                MODEL, prompt_tokens=prompt, output_tokens=output, num_samples=trials, kv_budget=kv_budget
            )
        return
    attended = sum(min(Fraction(kv_budget), prompt + Fraction(2 * step + 1, 2)) for step in range(output))
    compute = 2 * P * output + 4 * H * attended
    memory = 4 * H_KV * attended
    expected = float(trials * (compute + Fraction(1125, 2) * memory))
    result = kinetics_sparse_flops(
        MODEL, prompt_tokens=prompt, output_tokens=output, num_samples=trials, kv_budget=kv_budget
    )
    assert result == pytest.approx(expected, rel=1e-12)


def test_a_cache_budget_larger_than_everything_changes_nothing_for_one_sample():
    dense = kinetics_flops(MODEL, prompt_tokens=100, output_tokens=50, num_samples=1)
    sparse = kinetics_sparse_flops(MODEL, prompt_tokens=100, output_tokens=50, num_samples=1, kv_budget=150)
    assert sparse == pytest.approx(dense, rel=1e-12)


@given(prompt=LENGTHS, cached=LENGTHS, output=LENGTHS)
def test_prices_are_per_million_tokens_and_cached_tokens_have_their_own(prompt: int, cached: int, output: int):
    prices = TokenPrices(prompt_usd=0.15, output_usd=0.6, cached_prompt_usd=0.075)
    picodollars = prices.picodollars(prompt_tokens=prompt + cached, cached_tokens=cached, output_tokens=output)
    assert picodollars == prompt * 150_000 + cached * 75_000 + output * 600_000


def test_cached_tokens_cost_like_others_unless_priced():
    prices = TokenPrices(prompt_usd=1.0, output_usd=2.0)
    assert prices.picodollars(prompt_tokens=10, cached_tokens=9) == prices.picodollars(prompt_tokens=10) == 10**7


@given(usd=st.floats(0, 1000), tokens=st.integers(0, 10**6))
def test_a_price_is_never_rounded_down(usd: float, tokens: int):
    exact = Fraction(usd) * 10**6 * tokens
    picodollars = TokenPrices(output_usd=usd).picodollars(prompt_tokens=0, output_tokens=tokens)
    assert exact * (1 - Fraction(1, 10**15)) <= picodollars <= exact + tokens * (1 + Fraction(usd))


# Narayanan et al.: a 175-billion-parameter model, 0.081 s per token, the first after 0.178 s (512 prompt tokens) or
# 0.597 s (1920).
REFERENCE = IdealisedRuntime(prompt_profile=((512, 0.178), (1920, 0.597)), seconds_per_token=0.081)


@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [(512, 1, 0.178), (1920, 1, 0.597), (512, 2, 0.259), (512, 101, 8.278), (1920, 101, 8.697), (1216, 1, 0.3875)],
)
def test_the_idealised_runtime_has_the_published_numbers(prompt: int, output: int, expected: float):
    assert REFERENCE.seconds(prompt_tokens=prompt, output_tokens=output) == pytest.approx(expected, abs=1e-9)


def test_prompts_beyond_the_profile_extend_its_last_segment_and_shorter_ones_cost_the_first_point():
    assert REFERENCE.prompt_seconds(10) == 0.178
    slope = (0.597 - 0.178) / (1920 - 512)
    assert REFERENCE.prompt_seconds(2920) == pytest.approx(0.597 + 1000 * slope)


@given(prompt=st.integers(0, 10_000))
def test_a_profile_of_one_point_is_constant(prompt: int):
    assert IdealisedRuntime(((512, 0.2),), 0.08).prompt_seconds(prompt) == 0.2


@given(shorter=st.integers(0, 5000), more=st.integers(0, 5000))
def test_longer_prompts_are_never_faster(shorter: int, more: int):
    profile = IdealisedRuntime(((16, 0.02), (512, 0.178), (1024, 0.3), (1920, 0.597)), 0.081)
    assert profile.prompt_seconds(shorter) <= profile.prompt_seconds(shorter + more)
    assert math.isfinite(profile.prompt_seconds(shorter + more))
