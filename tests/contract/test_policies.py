"""One suite over all policies that are installed."""

import pytest

from orchestrator.testing.policy_contract import PolicyCase, PolicyContract, installed_policies

POLICIES = installed_policies()

CASES = [
    PolicyCase(POLICIES["single"], max_samples=1),
    PolicyCase(POLICIES["best_of_n"], {"n": 5}, max_samples=5),
    PolicyCase(POLICIES["best_of_n"], {"n": 5, "weighted": True}, max_samples=5),
    PolicyCase(POLICIES["self_consistency"], {"n": 7}, max_samples=7),
    PolicyCase(POLICIES["self_consistency"], {"n": 7, "ties": "logprob"}, max_samples=7),
    PolicyCase(POLICIES["adaptive_consistency"], {"max_samples": 12}, max_samples=12),
    PolicyCase(POLICIES["adaptive_consistency"], {"max_samples": 12, "rule": "dirichlet"}, max_samples=12),
    PolicyCase(POLICIES["adaptive_consistency"], {"max_samples": 12}, max_samples=12, target_confidence=0.6),
    PolicyCase(POLICIES["early_stopping"], {"window": 3, "max_samples": 10}, max_samples=10),
    PolicyCase(POLICIES["budget_forcing"], {"max_thinking_tokens": 60}, max_samples=3),
    PolicyCase(POLICIES["budget_forcing"], {"num_ignores": 4, "end_of_thinking": "</think>"}, max_samples=6),
    PolicyCase(POLICIES["rebase"], {"width": 5, "max_depth": 4}, max_samples=20),
    PolicyCase(POLICIES["ets"], {"width": 5, "max_depth": 4}, max_samples=20),
    PolicyCase(POLICIES["ets"], {"width": 5, "max_depth": 4, "node_cost": "tokens", "node_limit": 0}, max_samples=20),
    PolicyCase(POLICIES["beam_search"], {"width": 6, "expansion": 4, "max_depth": 3}, max_samples=18),
    PolicyCase(
        POLICIES["beam_search"], {"width": 4, "expansion": 2, "max_depth": 4, "selection": "best"}, max_samples=16
    ),
    PolicyCase(POLICIES["dvts"], {"width": 5, "expansion": 2, "max_depth": 4}, max_samples=20),
    PolicyCase(POLICIES["dvts"], {"width": 1, "max_depth": 4, "selection": "majority"}, max_samples=4),
    PolicyCase(POLICIES["lookahead"], {"width": 4, "expansion": 2, "max_depth": 3, "lookahead": 2}, max_samples=36),
    PolicyCase(POLICIES["lookahead"], {"width": 3, "max_depth": 3, "lookahead": 0}, max_samples=9),
    PolicyCase(POLICIES["particle_filtering"], {"width": 4, "max_depth": 4}, max_samples=16),
    PolicyCase(
        POLICIES["particle_filtering"],
        {"width": 3, "max_depth": 3, "iterations": 3, "resampling": "systematic", "selection": "best"},
        max_samples=21,
    ),
    PolicyCase(POLICIES["a_star"], {"expansion": 3, "max_expansions": 6, "max_frontier": 4}, max_samples=19),
    PolicyCase(POLICIES["a_star"], {"max_expansions": 3, "edge_cost": "consistent", "num_answers": 3}, max_samples=13),
    PolicyCase(POLICIES["mcts"], {"num_simulations": 8}, max_samples=17),
    PolicyCase(
        POLICIES["mcts"], {"num_simulations": 8, "formula": "puct", "parallel": 3, "max_depth": 2}, max_samples=17
    ),
    PolicyCase(POLICIES["mcts"], {"num_simulations": 5, "rollouts": True}, max_samples=21),
    PolicyCase(POLICIES["ab_mcts"], {"max_samples": 9}, max_samples=9),
    PolicyCase(POLICIES["ab_mcts"], {"max_samples": 9, "models": "small,large", "prior": "beta"}, max_samples=9),
    PolicyCase(
        POLICIES["tree_of_thoughts"], {"beam": 2, "proposals": 2, "max_depth": 3}, max_samples=2 + 4 + 4 + 4 * 3
    ),
    PolicyCase(
        POLICIES["tree_of_thoughts"],
        {"beam": 2, "proposals": 2, "max_depth": 3, "proposing": "list", "judging": "value"},
        max_samples=1 + 2 + 2 + (2 + 4 + 4) * 4,
    ),
    PolicyCase(POLICIES["cascade"], {"n_large": 2}, max_samples=8),
    PolicyCase(POLICIES["cascade"], {"n_small": 1}, max_samples=2, target_confidence=0.99),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestInstalledPolicies(PolicyContract):
    pass


def test_every_installed_policy_is_under_contract():
    assert {case.spec.name for case in CASES} == set(POLICIES)


def test_a_policy_is_registered_under_its_own_name():
    assert {name: spec.name for name, spec in POLICIES.items()} == {name: name for name in POLICIES}
