"""What a query asks of each role."""

import numpy as np
import pytest

from orchestrator import registry
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.planning.demand import FanOut
from orchestrator.planning.workload import Workload

QUERIES = Workload.of_lengths(np.array([400.0]), np.array([600.0]), rate=2.0)


def tokens(load: Workload) -> tuple[float, float, float]:
    """Per second: prompt tokens that are computed, output tokens, requests."""
    new = load.input_tokens - load.cached_tokens
    return float((load.rates * new).sum()), float((load.rates * load.output_tokens).sum()), load.rate


def test_one_sample_is_the_query_itself() -> None:
    demands = FanOut().demands(QUERIES)
    assert set(demands) == {"small"}
    assert tokens(demands["small"]) == (800, 1200, 2)


def test_samples_compute_the_prompt_once_and_write_each_their_own() -> None:
    small = FanOut(policy="self_consistency", width=8).demands(QUERIES)["small"]
    assert tokens(small) == pytest.approx((800, 8 * 1200, 16))
    assert small.resident_tokens[0] == pytest.approx(400 / 8 + 600)
    assert small.longest_input[0] == 400


def test_answers_are_scored_with_the_prompt_shared() -> None:
    demands = FanOut(policy="best_of_n", width=4).demands(QUERIES)
    assert tokens(demands["verifier"]) == pytest.approx((2 * 400 + 8 * 600, 8, 8))
    assert demands["verifier"].longest_total[0] == pytest.approx(1001)


def test_a_search_writes_each_token_once_and_scores_each_once_while_prefixes_are_cached() -> None:
    demands = FanOut(policy="beam_search", width=4, steps=6).demands(QUERIES)
    assert tokens(demands["small"])[1:] == pytest.approx((4 * 1200, 48))
    assert tokens(demands["verifier"])[0] == pytest.approx(2 * 400 + 8 * 600)
    assert demands["small"].longest_total.max() <= 1000
    # a step's first token comes from a prompt of which one token at least has to be computed
    assert tokens(demands["small"])[0] == pytest.approx(800 + 40)


def test_lost_prefixes_are_computed_again() -> None:
    kept = FanOut(policy="beam_search", width=4, steps=6).demands(QUERIES)["small"]
    lost = FanOut(policy="beam_search", width=4, steps=6, prefix_hits=0.0).demands(QUERIES)["small"]
    again = sum(8 * (400 + 100 * step) for step in range(1, 6))
    assert tokens(lost)[0] == pytest.approx(800 + again)
    assert tokens(lost)[0] > 10 * tokens(kept)[0]


def test_a_cascade_hands_a_share_to_the_large_model() -> None:
    demands = FanOut(policy="cascade", width=3, escalation=0.25).demands(QUERIES)
    assert tokens(demands["large"]) == pytest.approx((200, 300, 0.5))
    assert set(FanOut(policy="cascade", escalation=0.0).demands(QUERIES)) == {"small"}


def test_every_policy_of_ours_can_be_planned_for() -> None:
    for name in registry.names("policy"):
        assert FanOut(policy=name).demands(QUERIES)["small"].rate > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"policy": "single", "width": 4},
        {"policy": "self_consistency", "steps": 3},
        {"policy": "beam_search", "width": 0.5},
        {"policy": "beam_search", "width": float("nan")},
        {"policy": "beam_search", "steps": 0},
        {"policy": "cascade", "escalation": 1.5},
        {"policy": "beam_search", "prefix_hits": -1},
    ],
)
def test_what_a_policy_cannot_do_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        FanOut(**fields)


def test_an_unknown_policy_says_which_are_known() -> None:
    with pytest.raises(UnknownName, match="beam_search"):
        FanOut(policy="telepathy")
