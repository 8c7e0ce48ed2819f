"""The ready-made scripts say what their names promise."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.engine import Message, Prompt, Span
from orchestrator.testing import Reply, Script, arithmetic, as_script, babble, choices, judge
from orchestrator.testing.arithmetic import read_problem


def ask(text: str, written: str = "") -> Prompt:
    return Prompt((Message("user", text),), (Span(written),) if written else ())


def said(script: Script, text: str, seed: int, written: str = "") -> str:
    reply = script(ask(text, written), seed)
    return reply.text if isinstance(reply, Reply) else reply


def test_short_forms_become_scripts() -> None:
    assert said(as_script("always"), "x", 5) == "always"
    assert [said(as_script(["a", "b"]), "x", seed) for seed in range(4)] == ["a", "b", "a", "b"]
    by_message = as_script({"weather": "rain", "sum": ["3", "4"], "": "what?"})
    assert [said(by_message, text, 1) for text in ("the weather?", "a sum", "else")] == ["rain", "4", "what?"]


def test_a_message_without_a_reply_is_named() -> None:
    with pytest.raises(LookupError, match="hello"):
        as_script({"weather": "rain"})(ask("hello"), 1)


@pytest.mark.parametrize("empty", [[], {}])
def test_an_empty_script_is_refused(empty: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        as_script(empty)


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}])
def test_choices_without_weight_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        choices(weights)


def test_choices_follow_their_weights() -> None:
    script = choices({"x": 7, "y": 2, "z": 1})
    counts = Counter(said(script, "q", seed) for seed in range(1, 5001))
    # Binomial with n = 5000: three standard deviations are at most 0.02; the draw is fixed, so this cannot flake.
    assert {text: count / 5000 for text, count in counts.items()} == pytest.approx(
        {"x": 0.7, "y": 0.2, "z": 0.1}, abs=0.02
    )
    assert said(script, "q", 0) == "x"


def test_arithmetic_is_right_as_often_as_it_is_told_to_be() -> None:
    problem = "What is 17 * 24 + 3 - 100?"
    assert read_problem(problem).answer == 311
    for accuracy in (0.3, 0.8):
        script = arithmetic(accuracy=accuracy)
        right = sum("\\boxed{311}" in said(script, problem, seed) for seed in range(1, 2001))
        assert right / 2000 == pytest.approx(accuracy, abs=0.04)  # > 3 standard deviations; slips that cancel out count
    assert "\\boxed{311}" in said(arithmetic(), problem, 0)


def test_arithmetic_multiplies_before_it_adds() -> None:
    assert read_problem("so 3 + 4 * 5 - 2 * 6 it is").answer == 11
    assert read_problem("no numbers here").answer == read_problem("no numbers here").answer


@pytest.mark.parametrize("seed", range(1, 12))
def test_arithmetic_goes_on_from_any_step_whoever_wrote_it(seed: int) -> None:
    script, problem = arithmetic(accuracy=1.0), "3 + 4 * 5 - 2"
    whole = said(script, problem, seed)
    steps = whole.split("\n\n")
    for count in range(1, len(steps)):
        written = "\n\n".join(steps[:count]) + "\n\n"
        assert said(script, problem, seed, written) == whole[len(written) :]
    assert "\\boxed{100}" in said(script, problem, seed, "Step 1: 4 * 5 = 99.\n\n")
    assert said(script, problem, seed, "The final answer is \\boxed{") == "21}."


def test_a_judge_shows_its_probability() -> None:
    reply = judge(0.8)(ask("right?"), 0)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.alternatives[0]) == ("Yes", {"Yes": 0.8, "No": pytest.approx(0.2)})
    picky = judge(lambda prompt: 0.1 if "wrong" in prompt.messages[0].content else 0.9)
    assert [said(picky, text, 0) for text in ("wrong", "fine")] == ["No", "Yes"]


def test_babble_differs_by_seed_and_never_ends() -> None:
    one, two = babble()(ask("x"), 1), babble()(ask("x"), 2)
    assert isinstance(one, Reply)
    assert one.is_endless
    assert one != two
