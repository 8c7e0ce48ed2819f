"""Usage records: sums without loss, peaks, JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.usage import Usage

COUNTS = st.integers(0, 10**12)
USAGES = st.builds(
    Usage,
    prompt_tokens=COUNTS,
    cached_prompt_tokens=COUNTS,
    output_tokens=COUNTS,
    discarded_draft_tokens=COUNTS,
    lost_tokens=COUNTS,
    model_calls=COUNTS,
    verifier_calls=COUNTS,
    verifier_tokens=st.dictionaries(st.sampled_from(["judge", "prm", "embedder"]), st.integers(1, 10**6)),
    tool_calls=COUNTS,
    max_sequential_tokens=COUNTS,
    peak_parallel_sequences=COUNTS,
    unique_kv_tokens=COUNTS,
    logical_kv_tokens=COUNTS,
    num_levels=COUNTS,
    kept_kv_tokens=COUNTS,
    kept_logical_kv_tokens=COUNTS,
    peak_kv_cells=COUNTS,
    recomputed_tokens=COUNTS,
    flops=COUNTS,
    effective_flops=COUNTS,
    picodollars=COUNTS,
    is_estimated=st.booleans(),
    overrun_tokens=COUNTS,
)


@given(left=USAGES, middle=USAGES, right=USAGES)
def test_the_order_of_adding_does_not_matter(left: Usage, middle: Usage, right: Usage):
    assert left + middle == middle + left
    assert (left + middle) + right == left + (middle + right)


@given(usage=USAGES)
def test_adding_nothing_changes_nothing(usage: Usage):
    assert usage + Usage() == usage


@given(left=USAGES, right=USAGES)
def test_counts_add_up_and_peaks_do_not(left: Usage, right: Usage):
    both = left + right
    assert both.total_tokens == left.total_tokens + right.total_tokens
    assert both.picodollars == left.picodollars + right.picodollars
    assert both.max_sequential_tokens == max(left.max_sequential_tokens, right.max_sequential_tokens)
    assert both.peak_parallel_sequences == max(left.peak_parallel_sequences, right.peak_parallel_sequences)
    assert both.peak_kv_cells == max(left.peak_kv_cells, right.peak_kv_cells)
    assert both.recomputed_tokens == left.recomputed_tokens + right.recomputed_tokens
    assert both.is_estimated == (left.is_estimated or right.is_estimated)
    assert sum(both.verifier_tokens.values()) == sum([*left.verifier_tokens.values(), *right.verifier_tokens.values()])


@given(usage=USAGES)
def test_a_usage_survives_json(usage: Usage):
    assert Usage.from_json(json.loads(json.dumps(usage.to_json()))) == usage


def test_fields_of_later_versions_are_ignored():
    assert Usage.from_json({"output_tokens": 3, "photons": 5}) == Usage(output_tokens=3)


def test_the_mean_kv_of_several_searches_is_over_all_their_levels():
    long = Usage(num_levels=3, kept_kv_tokens=300)
    short = Usage(num_levels=1, kept_kv_tokens=20)
    assert (long + short).mean_kept_kv_tokens == 80
    assert Usage().mean_kept_kv_tokens == 0


def test_money_is_shown_in_dollars():
    assert Usage(picodollars=1_500_000_000_000).usd == 1.5


def test_wall_time_is_set_on_a_copy():
    usage = Usage(output_tokens=3)
    assert usage.with_wall(2.5) == Usage(output_tokens=3, wall_s=2.5)
    assert usage.wall_s == 0
