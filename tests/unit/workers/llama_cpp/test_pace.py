"""How many prompt tokens a batch reads."""

from __future__ import annotations

from orchestrator.workers.llama_cpp.pace import Pace


def learned(row_s: float) -> Pace:
    pace = Pace(512, is_fixed=False)
    for _ in range(40):
        pace.note(100, 100 * row_s)
    return pace


def test_a_prompt_of_128_tokens_is_read_in_one_batch_if_that_takes_about_a_second() -> None:
    assert learned(0.010).prefill_tokens(128, is_writing=False) >= 128


def test_a_longer_prompt_is_cut_evenly() -> None:
    pace = learned(0.008)
    left, chunks = 140, []
    while left:
        chunks.append(min(pace.prefill_tokens(left, is_writing=False), left))
        left -= chunks[-1]
    assert chunks == [70, 70]


def test_samples_that_write_wait_less_for_a_prompt_than_nobody_does() -> None:
    pace = learned(0.002)
    assert pace.prefill_tokens(400, is_writing=True) in {49, 50}
    assert pace.prefill_tokens(400, is_writing=False) == 134


def test_a_slow_model_still_reads_32_tokens_at_once() -> None:
    pace = learned(1.0)
    assert pace.prefill_tokens(320, is_writing=True) == pace.prefill_tokens(320, is_writing=False) == 32


def test_batches_are_full_where_their_shape_must_not_depend_on_the_clock() -> None:
    pace = Pace(512, is_fixed=True)
    pace.note(100, 1000.0)
    assert pace.prefill_tokens(700, is_writing=True) == 512


def test_nothing_to_read_is_no_problem() -> None:
    assert learned(0.008).prefill_tokens(0, is_writing=True) >= 1
