"""The process reward model: tags, packed labels, scores of steps, AUC, labels by rollouts."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

from orchestrator.bench.lab import comparing, growing, model, prm, tokenizer  # noqa: E402
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


def test_a_blank_line_follows_every_step_and_a_verdict_is_learnt_there() -> None:
    rng = random.Random(2)
    items = []
    for task in TASKS.values():
        problem, solution = task.example(rng, task.complexities[1])
        steps = tuple(steps_of(solution))
        items.append(Labelled(task.name, 1, problem, steps, len(steps) - 2))
    made = prm.batches(items, rng, batch_tokens=1)
    assert len(made) == len(items)
    for tokens, is_bad in made:
        assert ((is_bad != -100) == (tokens == tokenizer.STEP_END)).all()
    verdicts = [is_bad[is_bad != -100].tolist() for _, is_bad in made]
    assert sorted(verdicts) == sorted([0] * item.num_good + [1, 1] for item in items)
    assert [len(scores) for scores in prm.step_scores(rough_model(), items)] == [len(item.steps) for item in items]


def test_batches_hold_every_solution_once_and_none_that_is_too_long() -> None:
    items = [Labelled("expression", 1, "Evaluate mod 61: 1+2", ("1+2=3",) * n, n) for n in (1, 2, 3, 4, 200)]
    made = prm.batches(items, random.Random(1), batch_tokens=60)
    assert sum(len(batch.tokens) for batch in made) == 4
    assert len(made) < 4


def test_training_on_verdicts_tells_good_steps_from_bad_ones() -> None:
    items = [
        Labelled("expression", 1, "Evaluate mod 61: 1+2", ("1+2=3", f"3+{n}={n}"), 2 if n % 2 else 1)
        for n in range(10, 40)
    ]
    made = rough_model().train()
    optimizer = torch.optim.AdamW(made.parameters(), 1e-2)
    for _ in range(60):
        for batch in prm.batches(items, random.Random(1)):
            prm.verdict_loss(made, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    scores = prm.step_scores(made.eval(), items)
    labels = [step < item.num_good for item in items for step in range(2)]
    assert prm.auc([score for both in scores for score in both], labels) > 0.95


def test_auc_counts_ties_half() -> None:
    assert prm.auc([0.1, 0.5, 0.5, 0.9], [False, False, True, True]) == pytest.approx(0.875)


def test_auc_at_one_depth_gives_nothing_for_knowing_that_late_steps_are_wrong() -> None:
    depth = [0, 0, 0, 1, 1, 1, 2]
    is_good = [True, True, False, False, False, True, False]
    scores = [-float(place) for place in depth]
    assert prm.auc(scores, is_good) > 0.6
    assert prm.auc_within(scores, is_good, depth) == pytest.approx(0.5)
    assert prm.auc_within([float(good) for good in is_good], is_good, depth) == 1


def test_labels_of_a_model_that_knows_nothing_are_all_bad() -> None:
    made = rough_model()
    for item in labelled(made, made, count=3, split="train", num_rollouts=1, seed=1):
        assert item.num_good == 0


def test_without_a_roller_the_checkers_find_the_first_step_that_cannot_be_mended() -> None:
    for item in labelled(rough_model(), None, count=12, split="train", num_rollouts=1, seed=1):
        task = TASKS[item.task]
        assert all(task.can_finish(item.problem, item.steps[:end]) for end in range(1, item.num_good + 1))
        if item.num_good < len(item.steps):
            assert not task.can_finish(item.problem, item.steps[: item.num_good + 1])


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


def test_verdicts_become_the_likeliest_tokens_at_a_steps_end() -> None:
    items = [Labelled("expression", 1, "Evaluate mod 61: 1+2", ("1+2=3",), n % 2) for n in range(8)]
    made = rough_model().train()
    optimizer = torch.optim.AdamW(made.parameters(), 1e-2)
    (batch,) = prm.batches(items, random.Random(1))
    for _ in range(60):
        prm.verdict_loss(made, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        logits = made.eval()(batch.tokens.long())[batch.is_bad != -100]
    assert set(logits.topk(2).indices.flatten().tolist()) == {tokenizer.PLUS, tokenizer.MINUS}


def test_layers_on_top_learn_verdicts_and_leave_the_generator_as_it_is() -> None:
    items = [
        Labelled("expression", 1, "Evaluate mod 61: 1+2", ("1+2=3", f"3+{n}={n}"), 2 if n % 2 else 1)
        for n in (10, 11, 12, 13) * 5
    ]
    generator = rough_model()
    made = growing.deepened(generator, 2, torch.randn(100, 32))
    loss, learners = prm.top_loss(made, generator.size.layers)
    optimizer = torch.optim.AdamW([weight for learner in learners for weight in learner.module.parameters()], 1e-2)
    made.train()
    for _ in range(60):
        for batch in prm.batches(items, random.Random(1)):
            loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    before, after = generator.state_dict(), made.state_dict()
    for name in set(before) - {"norm"}:
        assert torch.equal(before[name], after[name]), name
    scores = prm.step_scores(made.eval(), items)
    labels = [step < item.num_good for item in items for step in range(2)]
    assert prm.auc([score for both in scores for score in both], labels) > 0.95


def test_a_layer_is_taught_how_likely_a_token_was_from_the_state_before_it() -> None:
    # A state names its own token in the first half, and in the second the token that it expects next.
    names = torch.nn.functional.normalize(torch.randn(6, 32), dim=-1) * 32**0.5
    generator = torch.Generator().manual_seed(3)
    own, expected = (torch.randint(0, 6, (64, 12), generator=generator) for _ in range(2))
    is_as_expected = torch.rand(64, 12, generator=generator) < 0.6
    own[:, 1:] = torch.where(is_as_expected[:, 1:], expected[:, :-1], own[:, 1:])
    likely = torch.zeros(64, 12)
    likely[:, 1:] = torch.where(own[:, 1:] == expected[:, :-1], 0.0, -6.0)
    counts = torch.ones(64, 12, dtype=torch.bool)
    counts[:, 0] = False
    states = torch.cat([names[own], names[expected]], -1)
    read = [comparing.Read(states, likely, counts, counts)]
    size = model.Size(64, 1, 64, 1e-2)
    layer, rotation = model.Layer(size), model.rotation_table(16)
    comparing.teach(layer, read, rotation, steps=120, seed=1)
    with torch.no_grad():
        normed = torch.nn.functional.rms_norm(states, (64,))
        query, key, _ = layer.qkv(normed).view(64, 12, 6, 32).transpose(1, 2).chunk(3, dim=1)
        turn = rotation[:, :12]
        scores = model.rotated(query, turn) @ model.rotated(key, turn).transpose(-1, -2) / 32**0.5
        attention = scores.masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)
        spoken = layer(states, turn, None, None) @ torch.nn.functional.normalize(layer.down.weight.sum(1), dim=0)
    assert attention.diagonal(-1, -2, -1).mean() > 0.8
    told = prm.auc(spoken[counts].tolist(), (likely[counts] > -3).tolist())
    assert max(told, 1 - told) > 0.9
