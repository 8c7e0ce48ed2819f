"""The process reward model: tags, packed labels, scores of steps, AUC, labels by rollouts."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from orchestrator.bench.lab import model, prm, tokenizer  # noqa: E402
from orchestrator.bench.lab.labels import Labelled, labelled  # noqa: E402
from orchestrator.bench.tasks import TASKS, steps_of  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)


def rough_model() -> model.Llama:
    made = model.Llama(model.Size(32, 2, 32, 1e-2))
    for weight in made.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def test_tags_follow_every_step_and_labels_follow_the_tags() -> None:
    rng = random.Random(2)
    items = []
    for task in TASKS.values():
        problem, solution = task.example(rng, task.complexities[1])
        steps = tuple(steps_of(solution))
        items.append(Labelled(task.name, 1, problem, steps, len(steps) - 2))
    rows, targets = prm.pack(items)
    assert ((targets != -100) == (rows == tokenizer.TAG)).all()
    assert (targets == tokenizer.PLUS).sum() == sum(item.num_good for item in items)
    assert (targets == tokenizer.MINUS).sum() == 2 * len(items)
    assert [len(scores) for scores in prm.step_scores(rough_model(), items)] == [len(item.steps) for item in items]


def test_auc_counts_ties_half() -> None:
    assert prm.auc([0.1, 0.5, 0.5, 0.9], [False, False, True, True]) == pytest.approx(0.875)


def test_labels_of_a_model_that_knows_nothing_are_all_bad() -> None:
    made = rough_model()
    for item in labelled(made, made, count=3, split="train", num_rollouts=1, seed=1):
        assert item.num_good == 0


def test_labels_are_kept_and_read_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    items = [
        Labelled("expression", 1, "Evaluate mod 61: 1+2", ("1+2=3", "The final answer is \\boxed{3}"), 2),
        Labelled("expression", 1, "Evaluate mod 61: 1+3", ("1+3=5",), 0),
    ]
    path = tmp_path / "labels-train.jsonl"
    assert prm.read_labels(path) == []
    prm.write_labels(path, items[:1])
    prm.write_labels(path, items[1:])
    assert prm.read_labels(path) == items
