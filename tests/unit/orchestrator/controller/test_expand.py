from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Budget, JobState, Sampling
from orchestrator.actions import Answer, Expand, Samples
from orchestrator.engine import FinishReason
from orchestrator.errors import ContextOverflow, PolicyFailed
from orchestrator.monitors import AnswerComplete, Repetition
from orchestrator.testing import Latency, arithmetic, babble
from orchestrator.testing.virtual_time import run_virtual

from .jobs import an_engine, run_job

WORDS = "one two three four five six seven eight nine ten."


def test_samples_come_in_submission_order_with_ids_that_name_their_action() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        first = yield Expand([query.root], 3)
        second = yield Expand(first.nodes[:2], [2, 1])
        return Answer(",".join(node.id for node in (*first, *second)))

    engine = an_engine(arithmetic(), latency=Latency(token_s=0.01, jitter=0.9))
    ran = run_virtual(run_job(policy, engine))
    assert ran.result.text == "0.0,0.1,0.2,1.0,1.1,1.2"
    assert [ran.result.tree[f"1.{i}"].parent.id for i in range(3)] == ["0.0", "0.0", "0.1"]


def test_every_sample_has_its_own_seed_and_the_same_one_on_every_run() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root, query.root], [2, 3])
        return "done"

    seeds = []
    for job_seed in (7, 7, 8):
        engine = an_engine()
        run_virtual(run_job(policy, engine, seed=job_seed))
        seeds.append([sample.seed for request in engine.log for sample in request.samples])
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == 5


def test_an_expansion_of_nothing_and_zero_samples_buys_nothing() -> None:
    outcomes: list[Samples] = []

    def policy(query: Any, ctx: Any) -> Any:
        outcomes.append((yield Expand([])))
        outcomes.append((yield Expand([query.root], 0)))
        outcomes.append((yield Expand([query.root, query.root], [0, 0])))
        return "nothing"

    ran = run_virtual(run_job(policy, replays=False))
    assert [len(samples) for samples in outcomes] == [0, 0, 0]
    assert not any(samples.is_partial for samples in outcomes)
    assert ran.result.usage.total_tokens == ran.result.usage.model_calls == 0
    assert ran.result.limited_by is None


def test_samples_of_one_parent_share_a_request_and_pay_for_its_prompt_once() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], 4)
        return "done"

    engine = an_engine(WORDS)
    ran = run_virtual(run_job(policy, engine))
    assert [len(request.samples) for request in engine.log] == [4]
    prompt = engine.count_prompt_tokens(engine.log[0].prompt)
    assert ran.result.usage.prompt_tokens == prompt
    assert ran.result.usage.output_tokens == 4 * 12  # ten words, a full stop, the end of the turn
    assert ran.result.usage.model_calls == 4
    assert ran.result.usage.peak_parallel_sequences == 4
    assert ran.result.usage.max_sequential_tokens == 12


def test_the_text_after_a_node_continues_its_tokens_and_forced_text() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (first,) = yield Expand([query.root], max_tokens=4)
        (second,) = yield Expand([first], forced=" five six")
        return Answer(second.trajectory, second)

    engine = an_engine(WORDS)
    ran = run_virtual(run_job(policy, engine))
    assert ran.result.text == WORDS
    first, second = ran.result.tree["0.0"], ran.result.tree["1.0"]
    assert (first.text, first.finish) == ("one two three four", FinishReason.LENGTH)
    assert (second.forced, second.text) == (" five six", " five six seven eight nine ten.")
    span, forced = engine.log[1].prompt.continuation
    assert span.token_ids == first.token_ids
    assert (forced.text, forced.token_ids) == (" five six", None)
    assert second.output_tokens == 6


def test_stop_strings_and_monitors_say_how_they_ended_a_sample() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (stopped,) = yield Expand([query.root], stop=("three",))
        (cut,) = yield Expand([query.root], monitors=(AnswerComplete(pattern="five"),))
        (looped,) = yield Expand([query.root], model="large", monitors=(Repetition(),))
        return Answer("|".join(str(node.finish_detail) for node in (stopped, cut, looped)))

    ran = run_virtual(run_job(policy, an_engine(WORDS), large=an_engine(babble(words_per_turn=3), name="babbler")))
    assert ran.result.text == "three|answer_complete|repetition"
    assert ran.result.tree["0.0"].text == "one two three"
    assert ran.result.tree["1.0"].is_final
    assert ran.result.tree["2.0"].finish is FinishReason.MONITOR


def test_the_log_probability_of_a_node_is_the_sum_over_its_tokens() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (with_logprobs,) = yield Expand([query.root], num_logprobs=1)
        (without,) = yield Expand([query.root])
        assert without.logprob is None
        return Answer(repr(with_logprobs.logprob))

    engine = an_engine(WORDS, tokens_per_delta=3)
    ran = run_virtual(run_job(policy, engine))
    node = ran.result.tree["0.0"]
    assert node.token_ids is not None
    from orchestrator.testing.scripted_sample import pseudo_logprob

    assert node.logprob == pytest.approx(sum(pseudo_logprob(token, i) for i, token in enumerate(node.token_ids)))


def test_the_callers_sampling_goes_before_the_policys() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], sampling=Sampling(temperature=0.3))
        return "done"

    for given, expected in ((None, 0.3), (Sampling(temperature=1.1), 1.1)):
        engine = an_engine()
        run_virtual(run_job(policy, engine, sampling=given))
        assert engine.log[0].sampling.temperature == expected


@pytest.mark.parametrize("jitter_seed", range(4))
def test_what_a_short_budget_grants_does_not_depend_on_which_sample_ends_first(jitter_seed: int) -> None:
    """Same grants for permuted latencies: the engine's speed differs per sample and per case, the words do not."""

    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 12, max_tokens=60)
        return Answer(",".join(f"{node.id}:{node.output_tokens}" for node in samples))

    def case(latency: Latency) -> tuple[str | None, list[list[int]], str | None]:
        engine = an_engine(arithmetic(max_asides=2), latency=latency)
        ran = run_virtual(run_job(policy, engine, seed=jitter_seed, budget=Budget(max_output_tokens=300)))
        grants = [row.data["grants"] for row in ran.rows if row.kind == "dispatch"]
        return ran.result.text, grants, ran.result.limited_by

    still = case(Latency())
    for jitter in (0.1, 0.5, 0.99):
        assert case(Latency(prefill_s=0.2, token_s=0.01, jitter=jitter)) == still
    assert still[2] == "max_output_tokens"


def test_a_short_budget_waits_for_refunds_then_shortens_then_ends() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 20, max_tokens=100)
        assert samples.is_partial
        assert samples.num_requested == 20
        assert samples.snapshot.remaining["output_tokens"] < 16
        return Answer("done", samples[0])

    engine = an_engine("word " * 39)  # 79 tokens at the most
    budget = Budget(max_output_tokens=500, answer_reserve_tokens=10)
    ran = run_virtual(run_job(policy, engine, budget=budget))
    grants = [grant for row in ran.rows if row.kind == "dispatch" for grant in row.data["grants"]]
    assert grants[:4] == [100] * 4, "as many as fit at full length"
    assert grants == sorted(grants, reverse=True), "then refunds buy more, at last shorter ones"
    assert 16 <= grants[-1] < 100
    assert ran.result.limited_by == "max_output_tokens"


def test_a_sample_that_is_wanted_short_is_not_refused_for_being_short() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 10, max_tokens=2)
        return Answer(str(len(samples)))

    ran = run_virtual(run_job(policy, an_engine(WORDS), budget=Budget(max_output_tokens=15, answer_reserve_tokens=8)))
    assert ran.result.text == "3"
    assert ran.result.limited_by == "max_output_tokens"


def test_a_parent_that_fills_the_context_fails_alone() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (long,) = yield Expand([query.root], max_tokens=90, model="large")
        samples = yield Expand([query.root, long, query.root], [1, 2, 1], max_tokens=8)
        return Answer(",".join(node.id for node in samples))

    engine, large = an_engine(WORDS, context_length=110), an_engine(babble(), name="large")
    ran = run_virtual(run_job(policy, engine, large=large))
    assert ran.result.text == "1.0,1.3"
    failed = [row.data["failed"]["code"] for row in ran.rows if row.kind == "sample" and row.data.get("failed")]
    assert failed == ["context_overflow"] * 2
    assert ran.result.usage.model_calls == 3


def test_parents_that_all_fill_the_context_raise_in_the_policy() -> None:
    caught: list[ContextOverflow] = []

    def policy(query: Any, ctx: Any) -> Any:
        (long,) = yield Expand([query.root], max_tokens=90, model="large")
        try:
            yield Expand([long], 2)
        except ContextOverflow as error:
            caught.append(error)
        return "went on"

    ran = run_virtual(
        run_job(policy, an_engine(WORDS, context_length=110), large=an_engine(babble(), name="large"), replays=False)
    )
    assert ran.result.text == "went on"
    assert caught[0].context_length == 110


def test_a_sample_is_no_longer_than_the_context_has_room_for() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (sample,) = yield Expand([query.root], max_tokens=1000)
        return Answer(str(sample.output_tokens))

    engine = an_engine(babble(), context_length=200)
    ran = run_virtual(run_job(policy, engine))
    assert int(ran.result.text or 0) + ran.result.usage.prompt_tokens == 200


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (lambda root: Expand([root], [1, 2]), "1 nodes and 2 sample counts"),
        (lambda root: Expand([root], -1), "negative"),
        (lambda root: Expand([root], max_tokens=0), "max_tokens"),
        (lambda root: Expand([root], "three"), "Expand"),
        (lambda root: Expand(["0"]), "Expand"),
        (lambda root: Expand(None), "Expand"),
        (lambda root: Expand([root], 1.5), "Expand"),
    ],
)
def test_an_expansion_that_makes_no_sense_fails_the_policy(action: Any, reason: str) -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield action(query.root)

    ran = run_virtual(run_job(policy))
    assert isinstance(ran.raised, PolicyFailed)
    assert reason in str(ran.raised)
    assert ran.result.state is JobState.FAILED
    assert ran.result.usage.total_tokens == 0


def test_unknown_models_are_named_with_those_that_exist() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([query.root], model="huge")

    ran = run_virtual(run_job(policy))
    assert ran.result.error is not None
    assert "huge" in str(ran.result.error)
    assert "scripted" in str(ran.result.error)
