"""Recording: what engines say is in the file with its counts, answers and scores, however often it was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.bench.problems import Problem
from orchestrator.bench.recorded.engine import PoolEngine, PoolScorer, PoolSet
from orchestrator.bench.recorded.pool import Pool, read_pool
from orchestrator.bench.recorded.recording import Progress, record
from orchestrator.bench.recorded.sample import TokenLengths
from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import (
    Capability,
    Engine,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    Message,
    Prompt,
    StepRewards,
)
from orchestrator.errors import CapabilityMissing, ContextOverflow, EngineFailed, InvalidRequest
from orchestrator.sampling import Sampling, derived_seed
from orchestrator.testing import Fault, ScriptedEngine, arithmetic, babble, on_calls
from orchestrator.testing.scripted_abilities import BlackBox

SAMPLING = Sampling(temperature=0.9)


class Sums:
    """Problems that the scripted arithmetic can solve."""

    name, max_sample_tokens = "sums", 200

    def __init__(
        self, num_problems: int = 4, *, answer_kind: str = "number", messages: tuple[Message, ...] | None = None
    ):
        self.answer_kind = answer_kind
        self.problems = [
            Problem(f"sum {number}", f"What is {number} + {2 * number}?", messages, str(3 * number))
            for number in range(num_problems)
        ]

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        return answer == problem.reference


class Rewards(ScriptedEngine):
    """A process reward model: the longer the step, the better; reads a token for each character."""

    def __init__(self, name: str = "judge") -> None:
        super().__init__("", name=name)
        self.seen: list[tuple[Prompt, tuple[str, ...]]] = []

    async def reward_steps(
        self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
    ) -> StepRewards:
        self.seen.append((prompt, tuple(steps)))
        return StepRewards(tuple(min(1.0, len(step) / 300) for step in steps), len("".join(steps)))


async def recorded(path: Path, engine: Engine | None = None, problem_set: Any = None, **options: Any) -> Pool:
    engine = engine or ScriptedEngine(arithmetic(accuracy=0.5))
    options = {"num_samples": 5, "sampling": SAMPLING, "seed": 3, "path": path} | options
    await record(engine, problem_set or Sums(), **options)
    return read_pool(path)


async def test_samples_have_the_text_counts_and_answers_of_the_engine(tmp_path: Path) -> None:
    engine = ScriptedEngine(arithmetic(accuracy=0.5), cost=ModelCost(parameters=99), name="adder")
    pool = await recorded(tmp_path / "p", engine)
    assert list(pool.problems) == [problem.id for problem in Sums().problems]
    assert (pool.header.set, pool.header.model.name, pool.header.model.cost) == (
        "sums",
        "adder",
        ModelCost(parameters=99),
    )
    assert (pool.header.sampling, pool.header.seed, pool.header.num_samples) == (SAMPLING, 3, 5)
    assert pool.header.machine["cores"]
    script = arithmetic(accuracy=0.5)
    for problem in pool.problems.values():
        prompt = Prompt(problem.messages)
        assert problem.prompt_tokens == engine.count_prompt_tokens(prompt)
        for index, sample in enumerate(problem.samples):
            said = script(prompt, derived_seed(3, problem.id, index))
            assert sample.text == (said if isinstance(said, str) else said.text)
            ids = engine.tokenize(sample.text)
            assert sample.output_tokens == len(ids) + 1
            assert [sample.text_of(place, place + 1) for place in range(len(ids))] == [
                engine.detokenize([token]) for token in ids
            ]
            assert sample.is_correct == (sample.answer == problem.reference)
    assert {sample.is_correct for problem in pool.problems.values() for sample in problem.samples} == {True, False}


@pytest.mark.parametrize(
    ("policy", "params", "budget"),
    [
        ("self_consistency", {"n": 8}, None),
        ("self_consistency", {"n": 8}, "tokens=100"),
        ("self_consistency", {"n": 8}, "total_tokens=200"),
        ("adaptive_consistency", {"confidence": 0.9, "parallel": 2}, None),
        ("early_stopping", {"window": 3, "max_samples": 9}, "tokens=100"),
        ("best_of_n", {"n": 4, "verifier": "majority"}, None),
    ],
)
async def test_a_replayed_job_costs_what_the_live_one_does(
    tmp_path: Path, policy: str, params: dict[str, Any], budget: str | None
) -> None:
    def an_engine() -> ScriptedEngine:
        cost = ModelCost(
            parameters=1000, attention_width=16, kv_width=16, prices=TokenPrices(prompt_usd=1, output_usd=2)
        )
        return ScriptedEngine("Three and six is nine.\n\nThe answer is 9.", cost=cost)

    pool = await recorded(tmp_path / "p", an_engine(), Sums(1), num_samples=9)
    results = []
    for engine in (an_engine(), PoolEngine(pool)):
        async with Orchestrator(engine) as orchestrator:
            result = await orchestrator.solve(
                pool.problems["sum 0"].text,
                answer="number",
                sampling=SAMPLING,
                policy=policy,
                params=params,
                budget=budget,
            )
        usage = replace(result.usage, wall_s=0.0)
        results.append((result.text, result.confidence, result.num_samples, result.limited_by, usage))
    assert results[0] == results[1]


@pytest.mark.parametrize("messages", [None, (Message("system", "Add."), Message("user", "Three."))])
async def test_a_pool_answers_what_solve_asks(tmp_path: Path, messages: tuple[Message, ...] | None) -> None:
    pool = await recorded(tmp_path / "p", problem_set=Sums(1, messages=messages))
    async with Orchestrator(PoolEngine(pool)) as orchestrator:
        problem = Sums(1, messages=messages).problems[0]
        result = await orchestrator.solve(
            problem.text,
            messages=messages,
            answer="number",
            sampling=SAMPLING,
            policy="self_consistency",
            params={"n": 5},
        )
    assert result.num_samples == 5


async def test_samples_that_were_cut_have_no_answer(tmp_path: Path) -> None:
    problem_set = Sums(1, answer_kind="text")
    problem_set.max_sample_tokens = 7
    pool = await recorded(tmp_path / "p", ScriptedEngine(babble()), problem_set)
    for sample in pool.problems["sum 0"].samples:
        assert (sample.finish, sample.output_tokens, sample.answer, sample.is_correct) == (
            FinishReason.LENGTH,
            7,
            None,
            False,
        )


# Going on


class _Stop(Exception):
    pass


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_recording_that_was_stopped_and_gone_on_with_equals_an_uninterrupted_one(
    tmp_path: Path, concurrency: int
) -> None:
    whole = await recorded(tmp_path / "whole", problem_set=Sums(6), concurrency=concurrency)

    def stop(progress: Progress) -> None:
        if progress.num_recorded == 2:
            raise _Stop

    engine = ScriptedEngine(arithmetic(accuracy=0.5))
    with suppress(_Stop):
        await recorded(tmp_path / "parts", engine, Sums(6), on_progress=stop, concurrency=concurrency)
    held = read_pool(tmp_path / "parts.pool.jsonl").problems
    assert 2 <= len(held) < 6
    seen: list[Progress] = []
    parts = await recorded(tmp_path / "parts", engine, Sums(6), on_progress=seen.append, concurrency=concurrency)
    assert list(parts.problems.items()) == list(whole.problems.items())
    assert [(progress.num_held, progress.num_recorded) for progress in seen] == [
        (len(held), number) for number in range(7 - len(held))
    ]
    new = [sample for id_, problem in whole.problems.items() if id_ not in held for sample in problem.samples]
    assert seen[-1].output_tokens == sum(sample.output_tokens for sample in new)
    assert (seen[-1].num_samples, seen[-1].num_correct) == (len(new), sum(sample.is_correct for sample in new))


async def test_cancelling_leaves_whole_problems(tmp_path: Path) -> None:
    task: asyncio.Task[Pool]

    def cancel(progress: Progress) -> None:
        if progress.num_recorded == 1:
            task.cancel()

    task = asyncio.ensure_future(recorded(tmp_path / "p", on_progress=cancel, concurrency=2))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(read_pool(tmp_path / "p").problems) >= 1
    assert len((await recorded(tmp_path / "p")).problems) == 4


async def test_a_complete_recording_asks_nothing_again_and_a_larger_set_only_what_is_new(tmp_path: Path) -> None:
    engine = ScriptedEngine(arithmetic())
    await recorded(tmp_path / "p", engine, Sums(2))
    await recorded(tmp_path / "p", engine, Sums(2))
    assert len(engine.log) == 2
    await recorded(tmp_path / "p", engine, Sums(3))
    assert len(engine.log) == 3


async def test_another_recording_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    await recorded(tmp_path / "p")
    engine = ScriptedEngine(arithmetic())
    with pytest.raises(InvalidRequest, match="num_samples is 5 in it and 6 here"):
        await recorded(tmp_path / "p", engine, num_samples=6)
    assert engine.log == []


# Scores


async def test_equal_texts_are_scored_once_and_in_steps_that_make_them_up(tmp_path: Path) -> None:
    texts = ["1 + 1\n\nThe answer is 2.", "It is 3.", ""]
    judge = Rewards()
    pool = await recorded(tmp_path / "p", ScriptedEngine(texts), Sums(1), num_samples=30, scorers={"prm": judge})
    problem = pool.problems["sum 0"]
    assert {sample.text for sample in problem.samples} == set(texts)
    assert sorted(steps for _, steps in judge.seen) == [("1 + 1\n\n", "The answer is 2."), ("It is 3.",)]
    assert {prompt.messages for prompt, _ in judge.seen} == {problem.messages}
    assert pool.header.scorers["prm"].name == "judge"
    for sample in problem.samples:
        if sample.text == texts[0]:
            assert (sample.scores["prm"].steps, sample.scores["prm"].prompt_tokens) == ((0.0233, 0.0533), 23)
        assert ("prm" in sample.scores) == bool(sample.text)
    async with Orchestrator(PoolEngine(pool), roles={"verifier": PoolScorer(pool, "prm")}) as orchestrator:
        result = await orchestrator.solve(
            problem.text,
            answer="number",
            sampling=SAMPLING,
            policy="best_of_n",
            params={"n": 30, "verifier": "process_reward"},
        )
    assert result.text == "2"


async def test_a_text_that_does_not_fit_the_scorer_has_no_score(tmp_path: Path) -> None:
    class Short(Rewards):
        async def reward_steps(
            self, prompt: Prompt, steps: Sequence[str], *, num_known: int = 0, tree_id: str = ""
        ) -> StepRewards:
            raise ContextOverflow(model="judge", prompt_tokens=9, context_length=5)

    pool = await recorded(tmp_path / "p", problem_set=Sums(1), scorers={"prm": Short()})
    assert all(sample.scores == {} for sample in pool.problems["sum 0"].samples)


async def test_a_model_that_scores_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityMissing, match="rewards of steps"):
        await recorded(tmp_path / "p", scorers={"prm": ScriptedEngine("")})


# Log probabilities


async def test_log_probabilities_are_recorded_to_a_hundredth(tmp_path: Path) -> None:
    pool = await recorded(tmp_path / "p", problem_set=Sums(1), want_logprobs=True)
    assert pool.header.has_logprobs
    for sample in pool.problems["sum 0"].samples:
        assert sample.logprobs is not None
        assert len(sample.logprobs) == sample.output_tokens - 1
        assert all(1 <= value <= 60 for value in sample.logprobs), "as the scripted engine makes them up"


async def test_log_probabilities_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    engine = ScriptedEngine(arithmetic(), capabilities={Capability.STRICT_COUNTS})
    with pytest.raises(CapabilityMissing, match="log probabilities"):
        await recorded(tmp_path / "p", engine, want_logprobs=True)


# Failures and odd engines


async def test_a_problem_at_which_the_engine_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.bench.recorded.recording._FIRST_PAUSE_S", 0.0)
    faults = on_calls({0: Fault(after_tokens=9), 1: Fault()})
    pool = await recorded(tmp_path / "p", ScriptedEngine(arithmetic(accuracy=0.5), faults=faults))
    assert pool.problems == (await recorded(tmp_path / "q")).problems
    dead = ScriptedEngine(arithmetic(), faults=on_calls({2: Fault(is_retryable=False)}))
    with pytest.raises(EngineFailed):
        await recorded(tmp_path / "r", dead, concurrency=1)
    assert len(read_pool(tmp_path / "r").problems) == 2


async def test_a_problem_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"problem 'sum 0': the prompt is .* leave the problem out"):
        await recorded(tmp_path / "p", ScriptedEngine(arithmetic(), context_length=8), Sums(1))


@pytest.mark.parametrize(("name", "value"), [("num_samples", 0), ("concurrency", 0)])
async def test_counts_below_one_are_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{name}={value}"):
        await recorded(tmp_path / "p", **{name: value})


async def test_an_engine_without_token_ids_has_its_deltas_shared_out(tmp_path: Path) -> None:
    engine = BlackBox(ScriptedEngine(["abcdefgh 12345678 xyz"], tokens_per_delta=2))
    pool = await recorded(tmp_path / "p", engine, Sums(1, answer_kind="text"), num_samples=1)
    (sample,) = pool.problems["sum 0"].samples
    assert sample.text == "abcdefgh 12345678 xyz"
    assert (sample.output_tokens, sample.ends[-1]) == (5, 21)
    assert len(set(sample.ends)) > 2


async def test_an_engine_whose_counts_contradict_each_other_is_recorded_all_the_same(tmp_path: Path) -> None:
    class Miscounts(ScriptedEngine):
        async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
            async for event in super().generate(request):
                yield replace(event, output_tokens=2) if hasattr(event, "output_tokens") else event

    pool = await recorded(tmp_path / "p", Miscounts("one two three four"), Sums(1, answer_kind="text"), num_samples=1)
    (sample,) = pool.problems["sum 0"].samples
    assert (sample.output_tokens, sample.text) == (2, "one two three four")


@pytest.mark.parametrize("text", ["plain words, 12", "日本語のテキスト 🎉🎊 é\u0301", "", "🎉", "\ufffd \ufffd"])
def test_the_lengths_of_tokens_make_up_the_text_character_by_character(text: str) -> None:
    engine = ScriptedEngine("")
    ids = engine.tokenize(text)
    lengths = TokenLengths(engine).of(text, ids)
    assert lengths is not None
    assert (len(lengths), sum(lengths)) == (len(ids), len(text))
    for count in range(len(ids) + 1):
        whole = engine.detokenize(ids[:count])
        told = text[: sum(lengths[:count])]
        assert whole.startswith(told), "no token has characters that come later"
        if "\ufffd" not in text:
            assert told == whole.rstrip("\ufffd"), "nor lacks any of its own"


def test_lengths_that_do_not_make_up_the_text_are_not_believed() -> None:
    engine = ScriptedEngine("")
    assert TokenLengths(engine).of("other", engine.tokenize("one two")) is None
    assert TokenLengths(engine).of("other", None) is None


async def test_a_pool_set_has_the_problems_that_were_recorded(tmp_path: Path) -> None:
    pool = await recorded(tmp_path / "p")
    problems = PoolSet(pool).problems
    assert [problem.reference for problem in problems] == ["0", "3", "6", "9"]
    assert all(problem.messages for problem in problems)
