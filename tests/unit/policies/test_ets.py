"""ETS: which candidates the program keeps, what the others are let go for, and how REBASE goes on with them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.actions import Action, Compute, Embed, Expand
from orchestrator.errors import CapabilityMissing, PolicyFailed
from orchestrator.policies import ets, rebase
from orchestrator.policies.rebase import NO_SHARE
from orchestrator.policies.search.clustering import cluster_labels
from orchestrator.policies.search.selection_program import chosen_candidates
from orchestrator.testing import PolicyDriver, Sampled
from orchestrator.testing.driver import out_of_budget

from .worlds import Said, end, expanded, explore, kept, step

NOT_IN_THE_COVER = "not in the cover that the program chose"
NO_EMBEDDINGS = CapabilityMissing(model="m", capability="embeddings")

# One branch gets three of four candidates; the fourth is alone on another, and says something else than they do.
THREE_AND_ONE: Said = {
    "": [step("add "), step("guess "), step("stop "), step("divide ")],
    "add ": [step("seven"), step("seven"), step("seven")],
    "divide ": [step("nine")],
    "add seven": [end("!", "7")],
    "divide nine": [end("!", "9")],
}
REWARDS = {"add ": 0.9, "guess ": 0.5, "stop ": 0.1, "divide ": 0.85, "add seven": 0.5, "divide nine": 0.5}

# Two branches of equal worth that say the same two things.
TWINS: Said = {
    "": [step("add "), step("divide "), step("stop "), step("guess ")],
    "add ": [step("seven"), step("nine")],
    "divide ": [step("seven"), step("nine")],
}
TWIN_REWARDS = {"add ": 0.9, "divide ": 0.9, "stop ": 0.0, "guess ": 0.0}
TWIN_PARAMS = {"width": 4, "lambda_b": 2.0, "max_depth": 2}


def an_ets(*, roles: tuple[str, ...] = ("small", "embedder"), **params: Any) -> PolicyDriver:
    return PolicyDriver(ets, params={"width": 4, **params}, cue="", roles=roles)


def reward_of(rewards: Mapping[str, float]) -> Any:
    return lambda text: rewards.get(text, 0.5)


def until(driver: PolicyDriver, kind: type[Action], said: Said, rewards: Mapping[str, float]) -> PolicyDriver:
    """Goes on to the next action of this kind."""
    while not isinstance(driver.action, kind):
        explore(driver, said, reward_of(rewards), num_turns=1)
    return driver


def actions(driver: PolicyDriver, kind: type[Action]) -> list[Any]:
    return [action for action in driver.actions if isinstance(action, kind)]


class TestTheProgram:
    def test_it_is_the_paper_s(self):
        driver = explore(an_ets(max_depth=2), THREE_AND_ONE, reward_of(REWARDS))
        first, second = (action.args[0] for action in actions(driver, Compute) if action.fn is chosen_candidates)
        assert (first["branch_parents"], first["parents"], first["clusters"]) == ([-1], [0] * 4, [0, 1, 2, 3])
        assert first["branch_costs"] == pytest.approx([1 / 5])
        assert first["gains"] == pytest.approx([3 / 4 - 1 / 5, -1 / 5, -1 / 5, 1 / 4 - 1 / 5])
        assert first["cluster_gain"] == pytest.approx(1.5 / 4)
        assert (second["branch_parents"], second["parents"]) == ([-1, 0, 0], [1, 1, 1, 2])
        assert second["branch_costs"] == pytest.approx([1 / 7] * 3)
        assert second["gains"] == pytest.approx([1 / 4 - 1 / 7] * 4)
        assert (second["clusters"], second["cluster_gain"]) == ([0, 0, 0, 1], 1.5 / 2)

    def test_a_branch_that_is_not_worth_its_kv_is_let_go(self):
        driver = explore(an_ets(lambda_d=0, max_depth=2), THREE_AND_ONE, reward_of(REWARDS))
        first, second = kept(driver)
        assert first == ({"add ", "divide "}, NOT_IN_THE_COVER)
        assert second == ({"add seven"}, NOT_IN_THE_COVER)

    def test_a_branch_that_says_something_else_is_worth_more(self):
        driver = explore(an_ets(max_depth=2), THREE_AND_ONE, reward_of(REWARDS))
        assert kept(driver)[-1][0] == {"add seven", "divide nine"}

    def test_the_whole_width_is_divided_among_those_kept(self):
        driver = explore(an_ets(lambda_d=0), THREE_AND_ONE, reward_of(REWARDS))
        counts = [action.counts() for action in actions(driver, Expand)]
        assert counts == [(4,), (3, 1), (2, 1, 1)]
        assert driver.answer.text == "7"

    def test_those_kept_that_get_no_share_go_too_and_for_another_reason(self):
        said = {"": [step("add "), step("guess "), step("guess "), step("divide ")]}
        driver = explore(an_ets(max_depth=1), said, reward_of(REWARDS))
        assert kept(driver) == [
            ({"add ", "guess ", "divide "}, NOT_IN_THE_COVER),
            ({"add ", "divide "}, NO_SHARE),
        ]

    def test_where_the_program_keeps_all_there_is_one_release(self):
        driver = explore(an_ets(max_depth=1), THREE_AND_ONE, reward_of(REWARDS))
        assert kept(driver) == [({"add ", "divide "}, NO_SHARE)]

    def test_of_branches_that_say_the_same_one_is_enough(self):
        driver = explore(an_ets(**TWIN_PARAMS), TWINS, reward_of(TWIN_REWARDS))
        texts, reason = kept(driver)[-1]
        assert texts in ({"add seven", "add nine"}, {"divide seven", "divide nine"})
        assert reason == NOT_IN_THE_COVER

    def test_a_long_step_costs_more_where_tokens_count(self):
        said = {"": [step("long ", 90), step("short ", 10)]}
        left = {
            cost: kept(explore(an_ets(width=2, lambda_d=0, max_depth=1, node_cost=cost), said, lambda _: 0.5))[0][0]
            for cost in ("node", "tokens")
        }
        assert left == {"node": {"long ", "short "}, "tokens": {"short "}}

    def test_steps_without_tokens_cost_nothing(self):
        said = {"": [step("a ", 0), step("b ", 0)]}
        driver = explore(an_ets(width=2, lambda_d=0, max_depth=1, node_cost="tokens"), said, lambda _: 0.5)
        assert [texts for texts, _ in kept(driver)] == [{"a ", "b "}]

    def test_a_single_candidate_needs_no_program(self):
        driver = explore(an_ets(width=1, max_depth=2), {"": [step("a ")], "a ": [end("!", "1")]}, lambda _: 0.5)
        assert actions(driver, Compute) == actions(driver, Embed) == []
        assert driver.answer.text == "1"

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_where_neither_kv_nor_variety_counts_it_is_rebase(self, seed: int):
        def share(text: str) -> float:
            return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(), digest_size=4).digest()) / 2**32

        def said(text: str) -> list[Sampled]:
            steps = [step(f"{number} ") for number in range(3)]
            return [
                end("!", str(round(9 * share(text)))) if share(f"{text}{number}") < 0.2 else steps[number]
                for number in range(3)
            ]

        searches = [
            explore(PolicyDriver(policy, params={"width": 8, "max_depth": 5, **params}, cue=""), said, share)
            for policy, params in ((ets, {"lambda_b": 0, "lambda_d": 0}), (rebase, {}))
        ]
        bought = [
            [
                (node.trajectory, count)
                for action in actions(driver, Expand)
                for node, count in zip(action.nodes, action.counts(), strict=True)
            ]
            for driver in searches
        ]
        assert bought[0] == bought[1]
        assert searches[0].answer.text == searches[1].answer.text


class TestWhoDecides:
    def test_the_heuristic_decides_where_the_solver_may_not_and_the_reason_says_so(self):
        driver = explore(an_ets(**TWIN_PARAMS, node_limit=0), TWINS, reward_of(TWIN_REWARDS))
        texts, reason = kept(driver)[-1]
        assert len(texts) == 2
        assert reason == f"{NOT_IN_THE_COVER} (greedy: over 0 nodes)"

    def test_the_heuristic_decides_where_the_solver_fails_and_the_reason_says_so(self):
        driver = until(an_ets(lambda_d=0, max_depth=1), Compute, THREE_AND_ONE, REWARDS)
        driver.throw(PolicyFailed("the worker died"))
        explore(driver, THREE_AND_ONE, reward_of(REWARDS))
        assert kept(driver) == [({"add ", "divide "}, f"{NOT_IN_THE_COVER} (greedy: the solver failed)")]

    def test_what_it_computes_can_be_named_in_a_journal(self):
        driver = explore(an_ets(max_depth=1), THREE_AND_ONE, reward_of(REWARDS))
        assert [action.fn for action in actions(driver, Compute)] == [cluster_labels, chosen_candidates]


class TestVariety:
    def test_no_model_is_asked_where_variety_does_not_count(self):
        driver = explore(an_ets(lambda_d=0, max_depth=2), THREE_AND_ONE, reward_of(REWARDS))
        assert actions(driver, Embed) == []

    def test_no_model_is_asked_where_all_steps_are_the_same(self):
        driver = explore(an_ets(max_depth=1), {"": [step("same ")]}, lambda _: 0.5)
        assert actions(driver, Embed) == []
        assert len(actions(driver, Compute)) == 1

    def test_only_different_last_steps_are_embedded(self):
        driver = explore(an_ets(max_depth=2), THREE_AND_ONE, reward_of(REWARDS))
        embedded = [[node.text for node in action.nodes] for action in actions(driver, Embed)]
        assert embedded == [["add ", "guess ", "stop ", "divide "], ["seven", "nine"]]

    @pytest.mark.parametrize(
        ("roles", "params", "asked"),
        [
            (("small", "embedder"), {}, ["embedder", "small"]),
            (("small",), {}, ["small"]),
            (("small", "large"), {"model": "large"}, ["large"]),
            (("small",), {"embedder": "bge"}, ["bge", "small"]),
        ],
    )
    def test_the_embedder_is_asked_first_and_then_the_model_that_writes(
        self, roles: tuple[str, ...], params: dict[str, Any], asked: list[str]
    ):
        driver = until(an_ets(roles=roles, **params), Embed, THREE_AND_ONE, REWARDS)
        models = []
        while isinstance(driver.action, Embed):
            models.append(driver.action.model)
            driver.throw(NO_EMBEDDINGS)
        assert models == asked

    def test_without_embeddings_reward_and_kv_decide_and_the_reason_says_so(self):
        driver = until(an_ets(roles=("small",), max_depth=2), Embed, THREE_AND_ONE, REWARDS)
        driver.throw(NO_EMBEDDINGS)
        explore(driver, THREE_AND_ONE, reward_of(REWARDS))
        assert len(actions(driver, Embed)) == 1
        assert [texts for texts, _ in kept(driver)] == [{"add ", "divide "}, {"add seven"}]
        assert {reason for _, reason in kept(driver)} == {
            f"{NOT_IN_THE_COVER} (variety does not count: no model embeds)"
        }

    def test_a_budget_too_short_to_embed_may_still_pay_for_a_step(self):
        driver = until(an_ets(), Embed, THREE_AND_ONE, REWARDS)
        driver.throw(out_of_budget())
        explore(driver, THREE_AND_ONE, reward_of(REWARDS))
        assert driver.answer.text == "7"
        assert len(expanded(driver)) > 1
