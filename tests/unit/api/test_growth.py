from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.api.growth import Choice, GivenUp, Growth, kv_tokens
from orchestrator.tree import Node, Tree

from .job_rows import search

FINISHES = ("stop", "length", "end", "cancelled")
PROMPT_TOKENS = 7


@dataclass
class Naive:
    """The same facts as `Growth` has, found anew from the whole tree whenever they are asked for."""

    tree: Tree = field(default_factory=lambda: Tree(Node(id="0")))
    given_up: dict[str, GivenUp] = field(default_factory=dict)

    def children(self, node: Node) -> list[Node]:
        return [child for child in self.tree if child.parent is node]

    def add(self, data: dict[str, object]) -> None:
        node = Node.from_json(data, self.tree.nodes)
        self.tree.add(node)
        for step in node.path():
            self.given_up.pop(step.id, None)

    def open(self) -> list[Node]:
        leaves = [leaf for leaf in self.tree.leaves() if not leaf.is_final and leaf.finish != "cancelled"]
        return [leaf for leaf in leaves if leaf.id not in self.given_up]

    def release(self, kept: list[str], why: GivenUp) -> int:
        on_the_way = {step.id for name in kept for step in self.tree[name].path()}
        dropped = [leaf.id for leaf in self.open() if leaf.id not in on_the_way]
        self.given_up |= dict.fromkeys(dropped, why)
        for node in sorted(self.tree, key=lambda node: -node.depth):
            children = self.children(node)
            is_dead = bool(children) and all(child.id in self.given_up for child in children)
            if is_dead and not node.is_root and node.id not in on_the_way:
                self.given_up.setdefault(node.id, why)
        return len(dropped)

    def held(self) -> tuple[int, int]:
        tokens = {node.id: node.output_tokens if node.parent else PROMPT_TOKENS for node in self.tree}
        paths = [leaf.path() for leaf in self.open()]
        return sum(tokens[name] for name in {step.id for way in paths for step in way}), sum(
            tokens[step.id] for way in paths for step in way
        )


@given(seed=st.integers(0, 2**32 - 1), num_actions=st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_growth_knows_at_every_moment_what_the_whole_tree_says(seed: int, num_actions: int) -> None:
    rng = random.Random(seed)
    growth, naive = Growth(), Naive()
    for action in range(num_actions):
        if action and rng.random() < 0.4:
            kept = rng.sample(list(naive.tree.nodes), rng.randint(0, min(4, len(naive.tree))))
            why = GivenUp(action, rng.choice(["", "too low"]))
            num_dropped = naive.release(kept, why)
            release = {"type": "Release", "all_but": kept, "reason": why.reason}
            growth.take("done", {"a": action, "action": release, "outcome": {}, "t": 0.0})
            assert growth.last_choice is not None
            assert growth.last_choice.num_kept == len(naive.open())
            assert growth.last_choice.num_given_up >= num_dropped
        else:
            for index in range(rng.randint(1, 5)):
                parent = rng.choice(list(naive.tree.nodes))
                data = {"id": f"{action}.{index}", "parent": parent, "text": "x", "finish": rng.choice(FINISHES)}
                data |= {"output_tokens": rng.randint(0, 9)}
                naive.add(data)
                usage = {"prompt_tokens": PROMPT_TOKENS}
                growth.take("sample", {"a": action, "i": index, "node": data, "usage": usage})
            growth.take("done", {"a": action, "action": {"type": "Expand"}, "outcome": {"units": []}, "t": 0.0})
        frame = growth.frame()
        leaves = naive.tree.leaves()
        assert (frame.held_tokens, frame.unshared_tokens) == naive.held()
        # a conversation counts once somebody has read it, whichever tree it heads
        is_read = {"0": PROMPT_TOKENS} if len(naive.tree) > 1 else {}
        assert (growth.unique_kv_tokens, growth.logical_kv_tokens) == naive.tree.kv_tokens(is_read)
        assert frame.num_open == len(naive.open())
        assert frame.num_finished == sum(leaf.is_final for leaf in leaves)
        assert frame.num_given_up == sum(leaf.id in naive.given_up for leaf in leaves)
        assert frame.num_nodes == len(naive.tree) - 1
        assert frame.depth == max(node.depth for node in naive.tree)
        found = {name: branch.given_up for name, branch in growth.branches.items() if branch.given_up}
        assert found == naive.given_up


def test_what_a_release_leaves_out_is_given_up_with_everything_above_it_that_leads_nowhere() -> None:
    growth = Growth()
    for name, parent, finish in [
        ("0.0", "0", "stop"),
        ("0.1", "0", "stop"),
        ("1.0", "0.0", "stop"),
        ("1.1", "0.0", "stop"),
        ("1.2", "0.1", "end"),
        ("1.3", "0.1", "stop"),
    ]:
        node = {"id": name, "parent": parent, "text": "", "finish": finish, "output_tokens": 1}
        growth.take("sample", {"a": 0, "i": 0, "node": node, "usage": {}})
    growth.take("done", {"a": 2, "action": {"type": "Release", "all_but": [], "reason": "why"}, "outcome": {}, "t": 1})
    given_up = {name for name, branch in growth.branches.items() if branch.given_up == GivenUp(2, "why")}
    assert given_up == {"0.0", "1.0", "1.1", "1.3"}, "0.1 leads to a finished trajectory"
    assert growth.last_choice == Choice(0, {"why": 3})
    assert growth.is_search


def test_releases_without_growth_between_them_are_one_choice() -> None:
    growth = Growth()

    def release(action: int, kept: list[str], reason: str) -> None:
        action_data = {"type": "Release", "all_but": kept, "reason": reason}
        growth.take("done", {"a": action, "action": action_data, "outcome": {}, "t": 0.0})

    for index in range(5):
        node = {"id": f"0.{index}", "parent": "0", "text": "", "finish": "stop", "output_tokens": 1}
        growth.take("sample", {"a": 0, "i": index, "node": node, "usage": {}})
    release(1, ["0.0", "0.1", "0.2"], "not in the cover")
    release(2, ["0.0"], "no share")
    assert growth.last_choice == Choice(1, {"not in the cover": 2, "no share": 2})
    node = {"id": "3.0", "parent": "0.0", "text": "", "finish": "stop", "output_tokens": 1}
    growth.take("sample", {"a": 3, "i": 0, "node": node, "usage": {}})
    release(4, ["3.0"], "no share")
    assert growth.last_choice == Choice(1, {})


def test_a_branch_that_is_taken_up_again_is_not_given_up() -> None:
    growth = Growth()
    first = {"id": "0.0", "parent": "0", "text": "", "finish": "stop", "output_tokens": 3}
    growth.take("sample", {"a": 0, "i": 0, "node": first, "usage": {"prompt_tokens": 5}})
    growth.take("done", {"a": 1, "action": {"type": "Release", "all_but": []}, "outcome": {}, "t": 1})
    assert growth.frame().num_given_up == 1
    again = {"id": "2.0", "parent": "0.0", "text": "", "finish": "stop", "output_tokens": 4}
    growth.take("sample", {"a": 2, "i": 0, "node": again, "usage": {}})
    assert growth.branches["0.0"].given_up is None
    frame = growth.frame()
    assert (frame.num_given_up, frame.num_open, frame.held_tokens) == (0, 1, 5 + 3 + 4)


def test_independent_samples_are_no_search() -> None:
    growth = Growth()
    for index in range(3):
        node = {"id": f"0.{index}", "parent": "0", "text": "", "finish": "end", "output_tokens": 1}
        growth.take("sample", {"a": 0, "i": index, "node": node, "usage": {}})
    assert not growth.is_search


def test_a_node_is_there_from_the_action_that_was_under_way() -> None:
    _, rows = search(60, text="")
    growth = Growth()
    for row in rows:
        growth.take(row.kind, row.data)
    for name, branch in growth.branches.items():
        if branch.parent is not None:
            assert branch.born == int(name.split(".")[0]) > branch.parent.born


def test_kv_of_trajectories_counts_a_shared_prefix_once() -> None:
    growth = Growth()
    for name, parent, tokens in [("0.0", "0", 10), ("1.0", "0.0", 2), ("1.1", "0.0", 3)]:
        node = {"id": name, "parent": parent, "text": "", "finish": "stop", "output_tokens": tokens}
        growth.take("sample", {"a": 0, "i": 0, "node": node, "usage": {"prompt_tokens": 100}})
    ends = [growth.branches["1.0"], growth.branches["1.1"]]
    assert kv_tokens(ends) == (100 + 10 + 2 + 3, (100 + 10 + 2) + (100 + 10 + 3))
