"""Replayed pools: every sample once a job, cut at any token, and what cannot be replayed is refused by name."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import Orchestrator
from orchestrator.bench.analysis.estimates import pass_at
from orchestrator.bench.problems import Problem
from orchestrator.bench.recorded.engine import PoolEngine, PoolExhausted, PoolScorer, PoolSet
from orchestrator.bench.recorded.pool import Pool, PoolSample
from orchestrator.bench.runs.judging import Judge, Oracle
from orchestrator.engine import (
    Capability,
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Prompt,
    RewardsSteps,
    Span,
    Tokenizes,
)
from orchestrator.errors import BudgetExhausted, CapabilityMissing, EngineFailed, InvalidRequest, UnknownName
from orchestrator.job import Result, StopReason
from orchestrator.monitors import AnswerComplete, ConfidenceFloor
from orchestrator.sampling import Sampling
from orchestrator.testing.transcript import SampleTranscript, Transcript

from .pools import SAMPLING, a_pool, a_request, a_sample


def numbered(num_samples: int, question: str = "?") -> Pool:
    """Each sample's text is its number."""
    return a_pool({question: [a_sample(str(number)) for number in range(num_samples)]})


async def texts_of(engine: PoolEngine, request: GenerateRequest) -> list[str]:
    return [sample.text for sample in (await Transcript.of(engine, request)).samples]


# Drawing


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_a_job_gets_every_sample_once_however_it_asks(sizes: list[int], seed: int) -> None:
    async def drawn() -> list[str]:
        engine = PoolEngine(numbered(sum(sizes)))
        requests = [a_request("?", *[9] * size, seed=seed + place) for place, size in enumerate(sizes)]
        return [text for request in requests for text in await texts_of(engine, request)]

    assert sorted(map(int, asyncio.run(drawn()))) == list(range(sum(sizes)))


async def test_equal_seeds_draw_the_same_and_others_do_not() -> None:
    engine = PoolEngine(numbered(40))
    one = await texts_of(engine, a_request("?", *[9] * 20, tree="one", seed=1))
    parts = [await texts_of(engine, a_request("?", *[9] * 10, tree="two", seed=seed)) for seed in (1, 77)]
    other = await texts_of(engine, a_request("?", *[9] * 20, tree="three", seed=2))
    assert one == parts[0] + parts[1], "how a job asks makes no difference"
    assert one != other


async def test_every_sample_comes_first_equally_often() -> None:
    # chi-square with 9 degrees of freedom: above 27.9 in one run of 1000; the seeds are fixed
    engine = PoolEngine(numbered(10))
    counts = [0] * 10
    for seed in range(2000):
        (text,) = await texts_of(engine, a_request("?", 9, tree=f"tree {seed}", seed=seed))
        counts[int(text)] += 1
    assert sum((count - 200) ** 2 / 200 for count in counts) < 27.9


async def test_jobs_and_problems_do_not_take_each_others_samples() -> None:
    pool = a_pool({"a": [a_sample("a")], "b": [a_sample("b")]})
    engine = PoolEngine(pool)
    for tree, question in itertools.product(("one", "two"), ("a", "b")):
        assert await texts_of(engine, a_request(question, 9, tree=tree)) == [question]


async def test_requests_without_a_tree_are_trees_of_their_own() -> None:
    engine = PoolEngine(numbered(1))
    for _ in range(2):
        assert await texts_of(engine, a_request("?", 9, tree="")) == ["0"]


async def test_a_release_in_the_middle_of_a_job_gives_no_sample_twice() -> None:
    engine = PoolEngine(numbered(2))
    first = await texts_of(engine, a_request("?", 9))
    await engine.release("tree")
    await engine.release("unknown")
    assert sorted(first + await texts_of(engine, a_request("?", 9))) == ["0", "1"]


async def test_jobs_that_are_long_over_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.bench.recorded.replies._MOST_TREES", 2)
    engine = PoolEngine(numbered(1))
    for tree in ("released", "alive", "new"):
        await texts_of(engine, a_request("?", 9, tree=tree))
        await engine.release("released")
    with pytest.raises(PoolExhausted):
        await texts_of(engine, a_request("?", 9, tree="alive"))
    assert await texts_of(engine, a_request("?", 9, tree="released")) == ["0"]


# Cutting


@st.composite
def cut_samples(draw: st.DrawFn) -> tuple[PoolSample, int]:
    text = draw(st.text("ab\n {}é日", max_size=60))
    places = [0, *sorted(draw(st.lists(st.integers(0, len(text)), max_size=80))), len(text)]
    lengths = [after - before for before, after in itertools.pairwise(places)]
    finish = draw(st.sampled_from([FinishReason.END, FinishReason.LENGTH]))
    return a_sample(text, lengths, finish=finish), draw(st.integers(1, 100))


@given(cut_samples())
@settings(max_examples=80, deadline=None)
def test_a_sample_cut_at_any_token_has_exactly_that_many_and_their_text(drawn: tuple[PoolSample, int]) -> None:
    sample, max_tokens = drawn
    replayed = asyncio.run(Transcript.of(PoolEngine(a_pool({"?": [sample]})), a_request("?", max_tokens))).only
    count = min(max_tokens, sample.output_tokens)
    assert replayed.num_tokens == count
    assert replayed.text == sample.text[: sample.ends[count - 1]]
    assert replayed.reason is (sample.finish if count == sample.output_tokens else FinishReason.LENGTH)
    assert len(replayed.deltas) == -(-count // 32), "as few deltas as are allowed"


@pytest.mark.parametrize(
    ("max_tokens", "stop", "wanted"),
    [
        (9, (), ("1\n\n23", 6, FinishReason.END, None)),
        (9, ("\n\n",), ("1\n\n", 3, FinishReason.STOP, "\n\n")),
        (2, ("\n\n",), ("1\n", 2, FinishReason.LENGTH, None)),
        (9, ("4",), ("1\n\n23", 6, FinishReason.END, None)),
        (9, ("3", "2"), ("1\n\n2", 4, FinishReason.STOP, "2")),
    ],
)
async def test_stop_strings_end_a_sample_with_the_token_that_completes_them(
    max_tokens: int, stop: tuple[str, ...], wanted: tuple[str, int, FinishReason, str | None]
) -> None:
    engine = PoolEngine(a_pool({"?": [a_sample("1\n\n23")]}))
    sample = (await Transcript.of(engine, a_request("?", max_tokens, stop=stop))).only
    assert sample.finished is not None
    assert (sample.text, sample.num_tokens, sample.reason, sample.finished.detail) == wanted


async def test_monitors_see_each_token_and_cut_after_it() -> None:
    engine = PoolEngine(a_pool({"?": [a_sample("\\boxed{7} and on it goes", [7, 1, 1, 15, 0])]}))
    sample = (await Transcript.of(engine, a_request("?", 9, monitors=(AnswerComplete(),)))).only
    assert sample.finished == Finished(0, FinishReason.MONITOR, 3, "answer_complete")
    assert sample.text == "\\boxed{7}"


async def test_the_end_of_a_turn_is_a_token_that_no_monitor_sees() -> None:
    @dataclass(frozen=True)
    class Counts:
        name: ClassVar[str] = "counts"
        num_logprobs: int = 0

        def watch(self) -> Counts:
            return self

        def sees(self, text: str, token: int | str, top_logprobs: object) -> bool:
            seen.append((text, token))
            return False

    seen: list[tuple[str, int | str]] = []
    await Transcript.of(PoolEngine(a_pool({"?": [a_sample("ab")]})), a_request("?", 9, monitors=(Counts(),)))
    assert seen == [("a", "a"), ("ab", "b")]


async def test_log_probabilities_come_with_the_tokens_they_belong_to() -> None:
    engine = PoolEngine(a_pool({"?": [a_sample("ab" * 20, logprobs=[0, 250] * 20)]}))
    assert Capability.LOGPROBS in engine.describe().capabilities
    sample = SampleTranscript()
    async for event in engine.generate(a_request("?", 41, num_logprobs=1)):
        if isinstance(event, Delta):
            sample.deltas.append(event)
    assert [delta.num_tokens for delta in sample.deltas] == [32, 9]
    assert [value for delta in sample.deltas for value in delta.logprobs or ()] == [0, -2.5] * 20


# Reading the prompt


async def test_the_prompt_is_read_once_a_job_and_cached_but_for_its_last_token_then() -> None:
    engine = PoolEngine(numbered(4))
    read = [(await Transcript.of(engine, a_request("?", 9, tree=tree))).prefilled for tree in ("one", "one", "two")]
    assert [(event.prompt_tokens, event.cached_tokens) for event in read if event] == [(7, 0), (7, 6), (7, 0)]
    health = await engine.health()
    assert (health.requests, health.prompt_tokens, health.cached_prompt_tokens) == (3, 21, 6)


async def test_an_engine_that_reads_the_prompt_for_each_sample_does_so_when_replayed() -> None:
    model = numbered(1).header.model.model_copy(update={"shares_prompt": False})
    engine = PoolEngine(a_pool({"?": [a_sample("1")] * 2}, model=model))
    assert not engine.describe().shares_prompt
    read = [(await Transcript.of(engine, a_request("?", 9))).prefilled for _ in range(2)]
    assert [event.cached_tokens for event in read if event] == [0, 0]


def test_prompts_are_counted_as_recorded_and_others_never_too_short() -> None:
    engine = PoolEngine(numbered(1))
    assert isinstance(engine, Tokenizes)
    recorded = Prompt((Message("user", "?"),))
    assert engine.count_prompt_tokens(recorded) == 7
    assert engine.count_prompt_tokens(Prompt(recorded.messages, (Span("12é"),))) == 11
    assert engine.count_prompt_tokens(Prompt((Message("user", "unknown"),))) >= len("unknown") + 16
    for refused in (lambda: engine.tokenize("a"), lambda: engine.detokenize([1])):
        with pytest.raises(CapabilityMissing, match="tokenization"):
            refused()


def test_it_describes_the_recorded_model() -> None:
    pool = numbered(1)
    described = PoolEngine(pool).describe()
    assert (described.name, described.engine) == ("pool:hand-made", "pool")
    assert (described.cost, described.context_length) == (pool.header.model.cost, 512)
    assert described.capabilities == {Capability.STRICT_COUNTS}


# Refusals


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"sampling": Sampling(temperature=0.5, top_p=0.9)},
            "temperature=0.5, top_p=0.9 .it was recorded at temperature=1.",
        ),
        ({"num_logprobs": 2}, "tokens that were not chosen"),
        ({"monitors": (ConfidenceFloor(floor=1.0),)}, "tokens that were not chosen"),
        ({"json_schema": {}}, "grammar"),
        ({"grammar": "root ::= x"}, "grammar"),
    ],
)
async def test_what_was_not_recorded_is_missing_by_name(options: dict[str, object], named: str) -> None:
    engine = PoolEngine(a_pool({"?": [a_sample("ab", logprobs=[1, 2])]}))
    with pytest.raises(CapabilityMissing, match=named) as caught:
        await Transcript.of(engine, a_request("?", 9, **options))
    assert caught.value.model == "pool:hand-made"
    assert await texts_of(engine, a_request("?", 9)) == ["ab"], "a refused request draws nothing"


async def test_a_conversation_that_was_not_recorded_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="sums only") as caught:
        await Transcript.of(PoolEngine(numbered(1)), a_request("What?", 9))
    assert caught.value.field == "messages"


async def test_more_samples_than_were_recorded_are_refused_after_those_that_are_left() -> None:
    engine = PoolEngine(numbered(3))
    transcript = Transcript(engine, a_request("?", 9, 9, 9, 9, 9))
    with pytest.raises(PoolExhausted, match=r"holds 3 samples of problem '<.>' and the job asks for more") as caught:
        _ = [event async for event in transcript.events()]
    assert [sample.finished is not None for sample in transcript.samples] == [True, True, True, False, False]
    assert isinstance(caught.value, BudgetExhausted)
    with pytest.raises(PoolExhausted):
        await Transcript.of(engine, a_request("?", 9))
    assert engine.num_refused_samples == 3
    assert (await engine.health()).live_sequences == 0


async def test_cancel_ends_all_samples_where_they_are() -> None:
    engine = PoolEngine(a_pool({"?": [a_sample("x" * 100)] * 3}))
    transcript = Transcript(engine, a_request("?", 200, 20, 200))
    async for event in transcript.events():
        if isinstance(event, Delta) and event.index == 1:
            engine.cancel("request")
    counts = [(sample.num_tokens, sample.reason) for sample in transcript.samples]
    assert counts == [(32, FinishReason.CANCELLED), (20, FinishReason.LENGTH), (0, FinishReason.CANCELLED)]


# Through the controller


def sums(num_samples: int = 16, num_problems: int = 6, *, share: float = 0.4) -> Pool:
    """Problems of different difficulty; a wrong answer is one of five."""
    rng = random.Random(3)
    questions = {}
    for number in range(num_problems):
        p_right = share * 2 * rng.random()
        answers = ["7" if rng.random() < p_right else str(rng.randrange(5)) for _ in range(num_samples)]
        questions[f"question {number}"] = [
            a_sample(
                f"so \\boxed{{{answer}}}", answer=answer, is_correct=answer == "7", prm=[0.9 if answer == "7" else 0.2]
            )
            for answer in answers
        ]
    return a_pool(questions)


async def solved(pool: Pool, problem: Problem, *, seed: int = 0, **options: object) -> Result:
    async with Orchestrator(PoolEngine(pool), roles={"verifier": PoolScorer(pool, "prm")}) as orchestrator:
        orchestrator.register_verifier("oracle", Oracle(Judge(PoolSet(pool), is_quick=True), PoolSet(pool).problems))
        return await orchestrator.solve(
            problem.text, messages=problem.messages, answer="exact", sampling=SAMPLING, seed=seed, **options
        )


async def test_a_policy_replays_with_the_recorded_counts() -> None:
    pool = sums()
    problem = PoolSet(pool).problems[0]
    result = await solved(pool, problem, policy="self_consistency", params={"n": 16})
    samples = pool.problems[problem.id].samples
    assert result.num_samples == 16
    assert result.usage.output_tokens == sum(sample.output_tokens for sample in samples)
    assert result.usage.prompt_tokens == 7
    assert sorted(node.text for node in result.tree if not node.is_root) == sorted(sample.text for sample in samples)


async def test_a_policy_that_asks_for_more_goes_on_with_what_there_is() -> None:
    pool = sums(num_samples=4)
    problem = PoolSet(pool).problems[0]
    for policy, params in (
        ("self_consistency", {"n": 9}),
        ("early_stopping", {"window": 4, "max_samples": 12}),
        ("adaptive_consistency", {"confidence": 0.9999, "max_samples": 40}),
    ):
        result = await solved(pool, problem, policy=policy, params=params)
        assert result.error is None
        assert result.num_samples == 4
        assert result.text is not None
        assert result.stop_reason in {StopReason.COMPLETED, StopReason.BUDGET}


async def test_best_of_n_finds_its_scores_and_pays_for_reading_them() -> None:
    pool = sums()
    problem = PoolSet(pool).problems[0]
    result = await solved(pool, problem, policy="best_of_n", params={"n": 16, "verifier": "process_reward"})
    assert (result.text, result.confidence) == ("7", 0.9)
    num_texts = len({sample.text for sample in pool.problems[problem.id].samples})
    assert result.usage.verifier_tokens == {"pool:hand-made:prm": 40 * num_texts}


async def test_best_of_k_by_an_oracle_is_pass_at_k() -> None:
    # within 4 standard errors of the exact value; a false alarm in 16,000 runs, and the seeds are fixed
    pool, num_seeds = sums(num_samples=12), 60
    problem_set = PoolSet(pool)
    async with Orchestrator(PoolEngine(pool)) as orchestrator:
        orchestrator.register_verifier("oracle", Oracle(Judge(problem_set, is_quick=True), problem_set.problems))
        for k in (1, 4):
            num_right = 0
            for problem, seed in itertools.product(problem_set.problems, range(num_seeds)):
                result = await orchestrator.solve(
                    problem.text,
                    messages=problem.messages,
                    answer="exact",
                    sampling=SAMPLING,
                    seed=seed,
                    policy="best_of_n",
                    params={"n": k, "verifier": "oracle"},
                )
                num_right += problem_set.is_correct(problem, result.text)
            chances = [pass_at(k, 12, problem.num_correct) for problem in pool.problems.values()]
            error = math.sqrt(num_seeds * sum(chance * (1 - chance) for chance in chances))
            assert 0.1 < sum(chances) / len(chances) < 0.9, "an interesting case"
            assert abs(num_right - num_seeds * sum(chances)) < 4 * error


# Scores and answers


async def test_scores_are_found_by_conversation_and_text() -> None:
    scorer = PoolScorer(a_pool({"?": [a_sample("a\n\nb", prm=[0.5, 0.25])]}), "prm")
    assert isinstance(scorer, RewardsSteps)
    prompt = Prompt((Message("user", "?"),))
    found = await scorer.reward_steps(prompt, ["a\n\n", "b"])
    assert (found.rewards, found.prompt_tokens, found.cached_tokens) == ((0.5, 0.25), 40, 0)
    assert (await scorer.reward_steps(prompt, ["a\n\n", "b"], num_known=1)).rewards == (0.25,)
    assert scorer.count_prompt_tokens(Prompt(prompt.messages, (Span("a\n\n"), Span("b")))) == 40
    assert (await scorer.health()).prompt_tokens == 80
    for messages, steps in (
        (prompt.messages, ["a\n\n"]),
        (prompt.messages, ["a\n\nb"]),
        ((Message("user", "!"),), ["a\n\n", "b"]),
    ):
        with pytest.raises(EngineFailed, match="no scores of prm") as caught:
            await scorer.reward_steps(Prompt(messages), steps)
        assert not caught.value.is_retryable


async def test_a_scorer_generates_nothing_and_must_be_known() -> None:
    pool = a_pool({"?": [a_sample("a", prm=[0.5])]})
    with pytest.raises(CapabilityMissing, match="generating text"):
        await Transcript.of(PoolScorer(pool, "prm"), a_request("?", 9))
    with pytest.raises(UnknownName, match="known: prm"):
        PoolScorer(pool, "orm")


def test_recorded_answers_are_looked_up_and_others_checked_by_the_real_set() -> None:
    pool = a_pool(
        {"?": [a_sample("=4", answer="4", is_correct=True), a_sample("=5", answer="5"), a_sample("who knows")]}
    )

    class Real:
        name, answer_kind, max_sample_tokens = "sums", "exact", 64
        problems = (Problem("<?>", "real"),)

        def is_correct(self, problem: Problem, answer: str | None) -> bool:
            return (problem.text, answer) == ("real", "four")

    alone, backed = PoolSet(pool), PoolSet(pool, Real())
    (problem,) = alone.problems
    assert (problem.id, problem.text, problem.messages) == ("<?>", "?", (Message("user", "?"),))
    answers = ("4", "5", "who knows", None)
    for problem_set in (alone, backed):
        assert [problem_set.is_correct(problem, answer) for answer in answers] == [True, False, False, False]
    assert backed.is_correct(problem, "four")
    assert not backed.is_correct(problem, "five")
    with pytest.raises(InvalidRequest, match="nobody gave this answer"):
        alone.is_correct(problem, "four")
    with pytest.raises(InvalidRequest, match="holds no problem 'other'"):
        alone.is_correct(Problem("other", "?"), "4")


def test_answers_that_another_models_pool_holds_are_known_too() -> None:
    small = a_pool({"?": [a_sample("=5", answer="5")]})
    large = a_pool({"?": [a_sample("=4", answer="4", is_correct=True)], "!": [a_sample("=1", answer="1")]})
    (problem,) = PoolSet(small).problems
    problem_set = PoolSet(small, others=[large])
    assert [problem_set.is_correct(problem, answer) for answer in ("4", "5")] == [True, False]
