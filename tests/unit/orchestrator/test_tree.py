"""Nodes and trees: paths, what an engine is given to continue, and JSON."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import FinishReason, Message, Prompt, Span
from orchestrator.tree import Node, Tree, path_tokens

ROOT = Node("root", messages=(Message("user", "6 times 7?"),))


def grown() -> tuple[Tree, dict[str, Node]]:
    """A root with two samples, the first of which goes on in two ways."""
    first = Node("1.0", ROOT, text="Well", output_tokens=3)
    second = Node("1.1", ROOT, text="Hm", output_tokens=5)
    left = Node("2.0", first, text=", 42", output_tokens=4)
    right = Node("2.1", first, text=", 41", output_tokens=7)
    tree = Tree(ROOT)
    for node in (first, second, left, right):
        tree.add(node)
    return tree, {node.id: node for node in tree}


def test_a_path_leads_from_the_root_to_the_node():
    _, nodes = grown()
    assert [node.id for node in nodes["2.1"].path()] == ["root", "1.0", "2.1"]
    assert nodes["2.1"].root is ROOT
    assert nodes["2.1"].depth == 2
    assert (ROOT.depth, ROOT.is_root, nodes["1.0"].is_root) == (0, True, False)


def test_a_trajectory_is_all_text_on_the_path():
    _, nodes = grown()
    assert nodes["2.0"].trajectory == "Well, 42"
    assert nodes["2.0"].trajectory_tokens == 7
    assert ROOT.trajectory == ""


def test_leaves_are_what_nothing_continues():
    tree, _ = grown()
    assert [node.id for node in tree.leaves()] == ["1.1", "2.0", "2.1"]
    assert Tree(ROOT).leaves() == []


def test_shared_tokens_are_counted_once_or_for_every_leaf():
    tree, _ = grown()
    assert tree.kv_tokens() == (3 + 5 + 4 + 7, 5 + (3 + 4) + (3 + 7))
    assert tree.kv_tokens({"root": 100}) == (100 + 19, 3 * 100 + 22)
    assert path_tokens(tree) == 10
    assert path_tokens([]) == 0


def test_kv_of_some_trajectories_counts_what_they_share_once():
    tree, nodes = grown()
    root_tokens = {"root": 100, "another": 7}
    assert tree.kv_tokens(root_tokens, ends=[nodes["2.0"], nodes["2.1"]]) == (100 + 3 + 4 + 7, 200 + 3 + 4 + 3 + 7)
    assert tree.kv_tokens(root_tokens, ends=[nodes["1.0"], nodes["2.0"]]) == (100 + 3 + 4, 200 + 3 + 3 + 4)
    assert tree.kv_tokens(root_tokens, ends=[]) == (0, 0)


def test_a_prompt_continues_ids_where_they_are_known_and_keeps_forced_text_apart():
    first = Node("1.0", ROOT, text="Well", token_ids=(5, 6), tokenizer="v")
    second = Node("2.0", first, forced="\nWait", text="\nWait, no", token_ids=(7,), tokenizer="v")
    assert second.prompt(forced="\nSo") == Prompt(
        ROOT.messages, (Span("Well", (5, 6), "v"), Span("\nWait"), Span(", no", (7,), "v"), Span("\nSo"))
    )
    assert second.prompt().continuation_text == second.trajectory


def test_a_node_that_added_nothing_adds_no_span():
    forced_only = Node("1.0", ROOT, forced="So", text="So")
    assert forced_only.prompt().continuation == (Span("So"),)
    assert Node("1.0", ROOT).prompt() == ROOT.prompt() == Prompt(ROOT.messages)


@pytest.mark.parametrize(
    ("finish", "detail", "is_final", "is_cut"),
    [
        (FinishReason.END, None, True, False),
        (FinishReason.MONITOR, "answer_complete", True, False),
        (FinishReason.MONITOR, "repetition", False, False),
        (FinishReason.STOP, "\n\n", False, False),
        (FinishReason.LENGTH, None, False, True),
        (FinishReason.CANCELLED, None, False, True),
        (FinishReason.TOOL_CALL, None, True, False),
        (None, None, False, False),
    ],
)
def test_a_node_is_final_when_the_model_said_all_it_wanted(
    finish: FinishReason | None, detail: str | None, is_final: bool, is_cut: bool
):
    node = Node("1.0", ROOT, finish=finish, finish_detail=detail)
    assert (node.is_final, node.is_cut) == (is_final, is_cut)


FIELDS = st.fixed_dictionaries(
    {
        "text": st.text(max_size=8),
        "forced": st.text(max_size=4),
        "token_ids": st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
        "tokenizer": st.none() | st.text(max_size=3),
        "model": st.text(max_size=3),
        "finish": st.none() | st.sampled_from(FinishReason),
        "finish_detail": st.none() | st.text(max_size=3),
        "output_tokens": st.integers(0, 9),
        "logprob": st.none() | st.floats(-9, 0),
        "answer": st.none() | st.text(max_size=3),
        "answer_class": st.none() | st.text(max_size=3),
    }
)


def fields_of(node: Node) -> dict[str, Any]:
    return {name: getattr(node, name) for name in Node.__slots__ if name != "parent"}


@given(fields=FIELDS, answer=st.none() | st.text(max_size=3), answer_class=st.none() | st.text(max_size=3))
def test_an_answer_changes_nothing_else_of_a_node(fields: dict[str, Any], answer: str | None, answer_class: str | None):
    node = Node("1.0", ROOT, **fields)
    answered = node.answered(answer, answer_class)
    assert fields_of(answered) == fields_of(replace(node, answer=answer, answer_class=answer_class))
    assert answered.parent is ROOT


@given(fields=FIELDS)
def test_a_node_survives_json_zero_log_probability_and_empty_answer_included(fields: dict[str, Any]):
    node = Node("1.0", ROOT, **fields)
    restored = Node.from_json(json.loads(json.dumps(node.to_json())), {"root": ROOT})
    assert fields_of(restored) == fields_of(node)
    assert restored.parent is ROOT
    assert restored.finish is node.finish


@pytest.mark.parametrize("root", [ROOT, Node("r1", messages=ROOT.messages, answers_query=True)], ids=["job", "side"])
def test_a_root_survives_json(root: Node):
    restored = Node.from_json(json.loads(json.dumps(root.to_json())), {})
    assert fields_of(restored) == fields_of(root)
    assert restored.is_root


def test_a_tree_as_json_lists_nodes_in_order_with_their_scores():
    tree, nodes = grown()
    tree.record_score(nodes["2.0"], "judge", 0.75)
    tree.record_score(nodes["2.0"], "length", 0.5)
    rows = json.loads(json.dumps(tree.to_json()))
    assert [row["id"] for row in rows] == ["root", "1.0", "1.1", "2.0", "2.1"]
    assert rows[3]["scores"] == {"judge": 0.75, "length": 0.5}
    assert rows[1]["scores"] == {}


def test_a_node_is_found_by_its_id_and_replaced_by_a_later_version():
    tree, nodes = grown()
    later = Node("2.0", nodes["1.0"], text=", 42!", answer="42")
    tree.add(later)
    assert tree["2.0"] is later
    assert ("2.0" in tree, "9.9" in tree, len(tree)) == (True, False, 5)
    tree.check_integrity()


def test_a_node_without_its_parent_is_refused():
    with pytest.raises(AssertionError, match=r"2\.0: parent is not in the tree"):
        Tree(ROOT).add(Node("2.0", Node("1.0", ROOT)))


def test_a_lost_parent_and_a_misplaced_conversation_are_found():
    tree, _ = grown()
    tree.add(Node("r1", text="a root without a conversation"))
    with pytest.raises(AssertionError, match="r1: roots, and only roots, hold conversations"):
        tree.check_integrity()
    tree, _ = grown()
    del tree._nodes["1.0"]
    with pytest.raises(AssertionError, match=r"2\.0: lost parent"):
        tree.check_integrity()
