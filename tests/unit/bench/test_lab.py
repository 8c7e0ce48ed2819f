"""The lab: encoding, packed rows, sampling with a cache, labels; exported files compute what PyTorch does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from orchestrator.bench.lab import data, generation, model, prm, tokenizer, train  # noqa: E402
from orchestrator.bench.lab.labels import Labelled, labelled  # noqa: E402
from orchestrator.bench.tasks import TASKS, steps_of  # noqa: E402

TINY = model.Size(32, 2, 32, 1e-2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)


def rough_model() -> model.Llama:
    made = model.Llama(TINY)
    for weight in made.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_texts_of_the_tasks_survive_encoding(task) -> None:
    rng = random.Random(1)
    for complexity in task.complexities:
        example = task.example(rng, complexity)
        for text in example:
            assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(data.document(rng)) <= data.ROW_TOKENS


def test_characters_that_no_task_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="no text of the tasks"):
        tokenizer.encode("\u00e9")


def test_packed_documents_do_not_see_each_other_and_only_solutions_are_learnt() -> None:
    row = torch.from_numpy(data.rows(random.Random(1), 1))
    batch = data.batch_of(row, torch.float32)
    made = rough_model()
    packed = made(batch.tokens, batch.bias)
    begin = (batch.tokens[0] == tokenizer.BOS).nonzero()[1].item()
    end = (batch.tokens[0] == tokenizer.EOS).nonzero()[1].item()
    alone = made(batch.tokens[:, begin : end + 1])
    assert torch.allclose(alone[0], packed[0, begin : end + 1], atol=1e-3)
    learnt = batch.targets[0, begin : end + 1]
    learnt = learnt[learnt != -100]
    solution = tokenizer.decode(batch.tokens[0, begin : end + 1].tolist()).partition("\n")[2]
    assert tokenizer.decode(learnt.tolist()) == solution
    assert learnt[-1] == tokenizer.EOS


def test_greedy_sampling_with_a_cache_and_padding_equals_one_by_one() -> None:
    made = rough_model()
    prompts = [tokenizer.prompt_ids("Make 24 from 1 2 3"), tokenizer.prompt_ids("Evaluate 1+2 mod 31")]
    for prompt, text in zip(prompts, generation.sample(made, prompts, temperature=0, max_tokens=40), strict=True):
        ids = list(prompt)
        for token in text:
            logits = made(torch.tensor([ids]))[0, -1, :256]
            logits[tokenizer.PAD] = -1e9
            assert token == logits.argmax().item()
            ids.append(token)


def test_training_lowers_the_loss() -> None:
    batch = data.batch_of(torch.from_numpy(data.rows(random.Random(1), 1)), torch.float32)
    made = model.Llama(TINY)
    optimizer = train.optimizer_of(made, 1e-2, "cpu")
    step = train.step_of(made, device="cpu", is_compiled=False)
    losses = []
    for _ in range(15):
        loss = step(batch.tokens, batch.bias, batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    made = rough_model()
    model.save(made, tmp_path / "x.pt", {"steps": 3})
    again, facts = model.load(tmp_path / "x.pt")
    ids = torch.tensor([[1, 50, 60]])
    assert facts == {"steps": 3}
    assert torch.equal(made(ids), again(ids))


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


@pytest.mark.model
def test_an_exported_model_computes_in_llama_cpp_what_it_does_in_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from orchestrator.bench.lab import export

    made = model.Llama(TINY).eval()  # rough weights magnify what llama.cpp rounds
    torch.nn.init.normal_(made.embedding.weight, std=0.3)
    export.write_gguf(made, tmp_path / "x.gguf", name="x", facts={})
    checked = export.check_gguf(made, tmp_path / "x.gguf", num_problems=30)
    assert checked["problems"] == 30
