"""The lab: encoding, packed rows, sampling with a cache; exported files compute what PyTorch does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from orchestrator.bench.lab import checkpoint, data, generation, growing, model, slips, tokenizer, train  # noqa: E402
from orchestrator.bench.tasks import TASKS, Task, is_solved  # noqa: E402

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


def packed_rows(count: int):
    rng = random.Random(1)
    return data.rows(lambda: data.document(rng), count)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_texts_of_the_tasks_survive_encoding(task) -> None:
    rng = random.Random(1)
    for complexity in task.complexities:
        example = task.example(rng, complexity)
        for text in example:
            assert tokenizer.decode(tokenizer.encode(text)) == text
        prompt, solution = tokenizer.prompt_ids(example.problem), tokenizer.encode(example.solution)
        assert len(prompt) + len(solution) < data.ROW_TOKENS


def test_numbers_and_cells_are_single_tokens() -> None:
    assert len(tokenizer.encode("Make 24 from 13 8")) == 6
    assert len(tokenizer.encode("Fill B3 in A1c")) == 5
    assert len(tokenizer.encode("17*13=12")) == 5


def test_documents_hold_a_problem_and_its_whole_solution() -> None:
    rng = random.Random(1)
    for _ in range(50):
        problem, _, solution = tokenizer.decode(data.document(rng)).partition("\n")
        assert any(is_solved(task, problem, solution) for task in TASKS.values() if knows(task, problem))


def knows(task: Task, problem: str) -> bool:
    try:
        task.canonical(problem)
    except ValueError:
        return False
    return True


def test_characters_that_no_task_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="no text of the tasks"):
        tokenizer.encode("\u00e9")


def test_packed_documents_do_not_see_each_other_and_only_solutions_are_learnt() -> None:
    rows = torch.from_numpy(packed_rows(20))
    row = next(row[None] for row in rows if (row == tokenizer.BOS).sum() > 1)
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
    prompts = [tokenizer.prompt_ids("Make 24 from 1 2 3"), tokenizer.prompt_ids("Evaluate mod 61: 1+2")]
    for prompt, text in zip(prompts, generation.sample(made, prompts, temperature=0, max_tokens=40), strict=True):
        ids = list(prompt)
        for token in text:
            logits = made(torch.tensor([ids]))[0, -1, :256]
            logits[tokenizer.PAD] = -1e9
            assert token == logits.argmax().item()
            ids.append(token)


def test_training_lowers_the_loss() -> None:
    batch = data.batch_of(torch.from_numpy(packed_rows(1)), torch.float32)
    made = model.Llama(TINY)
    optimizers = train.Optimizers(made, 1e-2, "cpu")
    step = train.step_of(made, device="cpu", is_compiled=False)
    losses = []
    for _ in range(15):
        loss = step(batch.tokens, batch.bias, batch.targets)
        loss.backward()
        optimizers.step(1e-2)
        losses.append(loss.item())
    assert all(weight.grad is None for weight in made.parameters())
    assert losses[-1] < 0.7 * losses[0]


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    made = rough_model()
    checkpoint.save(made, tmp_path / "x.pt", {"steps": 3})
    again, facts = checkpoint.load_file(tmp_path / "x.pt")
    ids = torch.tensor([[1, 50, 60]])
    assert facts == {"steps": 3}
    assert torch.equal(made(ids), again(ids))


def test_a_grown_model_computes_what_it_did() -> None:
    made = rough_model()
    size = made.size
    deeper = growing.grown(made, model.Size(size.width, 3 * size.layers, size.hidden, 1e-2))
    ids = torch.tensor([[1, 50, 60, 70]])
    torch.testing.assert_close(deeper(ids), made(ids))
    with pytest.raises(ValueError, match="cannot grow"):
        growing.grown(made, model.Size(size.width, 2 * size.layers + 1, size.hidden, 1e-2))


def test_layers_on_top_begin_with_a_look_at_the_token_before() -> None:
    made = model.Llama(model.Size(64, 2, 32, 1e-2))
    for weight in made.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.1)
    # Hidden states of a trained model share a direction; those of a random one have to be given it.
    made.embedding.weight.data += torch.linspace(0.5, 1.5, 64)
    ids = torch.tensor([list(tokenizer.prompt_ids("Make 24 from 13 8 2 7"))])
    last = made.states(ids)[-1][0].detach()
    normed = torch.nn.functional.rms_norm(last, (64,))
    deeper = growing.deepened(made, 2, normed)
    assert (deeper.size.layers, len(deeper.layers)) == (4, 4)
    torch.testing.assert_close(deeper.states(ids)[1], made.states(ids)[1])
    added = deeper.states(ids)[2][0] - last
    before = torch.cat([normed[:1], normed[:-1]])
    alike = torch.nn.functional.cosine_similarity(added[2:], before[2:])
    assert (alike > torch.nn.functional.cosine_similarity(added[2:], normed[2:])).all()


def test_slips_are_documents_of_the_task_as_the_model_writes_them() -> None:
    made = rough_model()
    documents = slips.written(made, "countdown", count=8, temperature=1.0, seed=1)
    problems = [tokenizer.decode(document[1:]).partition("\n")[0] for document in documents]
    assert all(TASKS["countdown"].canonical(problem) for problem in problems)
    assert all(document[-1] == tokenizer.EOS and len(document) <= data.ROW_TOKENS for document in documents)
    assert documents == slips.written(made, "countdown", count=8, temperature=1.0, seed=1)


def test_training_goes_on_from_exported_weights(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from orchestrator.bench.lab.hugging_face import write_safetensors

    made = rough_model()
    write_safetensors(made, tmp_path / "x", {"steps": 3, "learning_rate": 1e-2})
    again, facts = checkpoint.load(tmp_path, "x")
    ids = torch.tensor([[1, 50, 60]])
    assert facts["steps"] == 3
    assert again.size == made.size
    torch.testing.assert_close(again(ids), made(ids), rtol=2e-2, atol=2e-2)
    with pytest.raises(SystemExit, match="train y first"):
        checkpoint.load(tmp_path, "y")


@pytest.mark.model
def test_an_exported_model_computes_in_llama_cpp_what_it_does_in_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from orchestrator.bench.lab import export

    made = model.Llama(TINY).eval()  # rough weights magnify what llama.cpp rounds
    torch.nn.init.normal_(made.embedding.weight, std=0.3)
    export.write_gguf(made, tmp_path / "x.gguf", name="x", facts={})
    checked = export.check_gguf(made, tmp_path / "x.gguf", num_problems=30)
    assert checked["problems"] == 30
