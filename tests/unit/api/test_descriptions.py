from __future__ import annotations

from orchestrator.api.descriptions import SEARCH, WHOLE, described_policies, type_words


def test_searches_over_steps_are_told_from_policies_that_sample_whole_solutions() -> None:
    kinds = {policy.name: policy.facts["kind"] for policy in described_policies()}
    assert {kinds[name] for name in ("rebase", "beam_search", "ets", "a_star", "mcts", "tree_of_thoughts")} == {SEARCH}
    assert {kinds[name] for name in ("single", "best_of_n", "self_consistency", "cascade")} == {WHOLE}


def test_a_policy_says_who_scores_it() -> None:
    verifiers = {policy.name: policy.facts["verifier"] for policy in described_policies()}
    assert verifiers["rebase"] == "any; by default process_reward"
    assert verifiers["self_consistency"] == "none"


def test_lists_are_described_as_lists() -> None:
    assert type_words(tuple[str, ...]) == "list of text"
    assert type_words(int | None) == "whole number or null"
