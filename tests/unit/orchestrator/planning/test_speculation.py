"""Draft lengths are those with the highest goodput."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import SpeculationSettings
from orchestrator.errors import InvalidRequest
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.speculation import choose_tokens, draft_table, emitted, goodput
from orchestrator.planning.throughput import Deployment, StepTimes

GPU = Catalogue.default().gpus["H100"]
TARGET = StepTimes(Deployment(open_shape("llama-3.1-70b"), GPU, 4))
DRAFT = StepTimes(Deployment(open_shape("llama-3.2-1b"), GPU, 4))


def test_emitted_tokens_are_a_geometric_sum() -> None:
    assert emitted(0.5, 3) == pytest.approx((1 - 0.5**4) / (1 - 0.5))
    assert (emitted(1.0, 3), emitted(0.0, 3), emitted(0.9, 0)) == (4, 1, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 400), st.floats(0, 1), st.floats(1, 4000))
def test_the_choice_is_the_best_of_all(batch: int, acceptance: float, context: float) -> None:
    def rate(tokens: int) -> float:
        return goodput(TARGET, DRAFT, batch=batch, context=context, tokens=tokens, acceptance=acceptance)

    chosen = choose_tokens(TARGET, DRAFT, batch=batch, context=context, acceptance=acceptance)
    assert rate(chosen) == max(rate(tokens) for tokens in range(9))


def test_more_load_and_less_acceptance_draft_less() -> None:
    by_load = [choose_tokens(TARGET, DRAFT, batch=n, context=500, acceptance=0.7) for n in (1, 64, 256, 4096)]
    assert by_load == sorted(by_load, reverse=True)
    assert (by_load[0] > 0, by_load[-1]) == (True, 0)
    by_acceptance = [choose_tokens(TARGET, DRAFT, batch=8, context=500, acceptance=a / 10) for a in range(11)]
    assert by_acceptance == sorted(by_acceptance)
    assert by_acceptance[0] == 0


def test_the_table_has_no_gaps_and_is_what_vllm_takes() -> None:
    table = draft_table(TARGET, DRAFT, context=500, acceptance=0.7, most_sequences=512)
    assert (table[0].first, table[-1].last) == (1, 512)
    assert all(later.first == earlier.last + 1 for earlier, later in pairwise(table))
    settings = SpeculationSettings(model="x", by_batch=tuple(tuple(row) for row in table))
    assert len(settings.by_batch) == len(table)


def test_guesses_from_the_text_cost_no_draft_model() -> None:
    assert goodput(TARGET, None, batch=1, context=100, tokens=4, acceptance=0.5) > goodput(
        TARGET, DRAFT, batch=1, context=100, tokens=4, acceptance=0.5
    )


@pytest.mark.parametrize("acceptance", [-0.1, 1.1, float("nan")])
def test_an_acceptance_is_a_share(acceptance: float) -> None:
    with pytest.raises(InvalidRequest, match="acceptance"):
        draft_table(TARGET, DRAFT, context=500, acceptance=acceptance, most_sequences=2)
