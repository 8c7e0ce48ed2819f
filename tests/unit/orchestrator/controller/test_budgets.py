from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator import Answer, Budget, JobState, Ledger, StopReason
from orchestrator.actions import Conclude, Expand, Propose
from orchestrator.controller.purchase import sample_amount, sample_usage
from orchestrator.cost import KINETICS_INTENSITY, ModelCost, TokenPrices
from orchestrator.engine import Message
from orchestrator.errors import BudgetExhausted, BudgetTooSmall, ContextOverflow, NoAnswer
from orchestrator.testing import Latency, arithmetic, babble, judge
from orchestrator.testing.virtual_time import run_virtual

from .jobs import an_engine, run_job

WORDS = "one two three four five six seven eight nine ten."  # 12 tokens with the full stop and the end
COST = ModelCost(
    parameters=1000,
    attention_width=10,
    kv_width=4,
    prices=TokenPrices(prompt_usd=1.0, output_usd=4.0, cached_prompt_usd=0.1),
)


def greedy_spender(query: Any, ctx: Any) -> Any:
    """Buys until it is told to stop."""
    while True:
        yield Expand([query.root], 3, max_tokens=50)


def whole_samples(query: Any, ctx: Any) -> Any:
    """Buys, and has answers as it goes."""
    while True:
        yield Expand([query.root], 2, max_tokens=120)


def thinker(query: Any, ctx: Any) -> Any:
    """One endless thought."""
    node = query.root
    while True:
        (node,) = yield Expand([node])


@pytest.mark.parametrize(
    ("budget", "cap"),
    [
        (Budget(max_output_tokens=400), "max_output_tokens"),
        (Budget(max_total_tokens=700), "max_total_tokens"),
        (Budget(max_model_calls=7), "max_model_calls"),
        (Budget(max_usd=0.002), "max_usd"),
        (Budget(max_flops=2e6), "max_flops"),
        (Budget(max_seconds=20), "max_seconds"),
    ],
)
def test_each_cap_alone_ends_the_job_with_the_best_answer_and_says_so(budget: Budget, cap: str) -> None:
    engine = an_engine(arithmetic(accuracy=1.0), cost=COST, latency=Latency(prefill_s=0.1, token_s=0.02))
    ran = run_virtual(run_job(greedy_spender, engine, budget=budget))
    assert ran.result.state is JobState.SUCCEEDED
    assert ran.result.text == "6"
    assert ran.result.limited_by == cap
    assert ran.result.stop_reason is (StopReason.DEADLINE if cap == "max_seconds" else StopReason.BUDGET)
    assert ran.result.num_samples > 0


@pytest.mark.parametrize(
    "budget",
    [
        Budget(max_output_tokens=60),
        Budget(max_output_tokens=25),
        Budget(max_total_tokens=240),
        Budget(max_model_calls=3),
        Budget(max_usd=0.0004),
        Budget(max_flops=6e5),
        Budget(max_seconds=2.0),
    ],
)
def test_a_job_cut_off_in_the_middle_of_a_thought_still_states_an_answer_within_its_caps(budget: Budget) -> None:
    def long_thought(prompt: Any, seed: int) -> Any:
        if prompt.continuation_text.endswith("\\boxed{"):
            return "6}."
        return babble()(prompt, seed)

    engine = an_engine(long_thought, cost=COST, latency=Latency(prefill_s=0.02, token_s=0.01))
    ran = run_virtual(run_job(thinker, engine, budget=budget, max_sample_tokens=40))
    assert ran.result.text == "6"
    concluded = ran.result.answer.node
    assert concluded is not None
    assert concluded.forced
    assert ran.result.stop_reason is (StopReason.DEADLINE if budget.max_seconds else StopReason.BUDGET)
    if budget.max_seconds:
        assert ran.seconds <= budget.max_seconds


def test_the_only_call_of_a_job_goes_to_a_whole_sample() -> None:
    engine = an_engine(arithmetic(accuracy=1.0))
    ran = run_virtual(run_job("single", engine, budget=Budget(max_model_calls=1)))
    assert ran.result.text == "6"
    assert ran.result.usage.model_calls == 1


@pytest.mark.parametrize(
    ("budget", "cap"),
    [
        (Budget(max_output_tokens=7), "max_output_tokens"),
        (Budget(max_total_tokens=12), "max_total_tokens"),
        (Budget(max_usd=1e-6), "max_usd"),
        (Budget(max_flops=1000.0), "max_flops"),
    ],
)
def test_a_budget_that_cannot_pay_for_an_answer_is_refused_by_name_with_what_is_needed(
    budget: Budget, cap: str
) -> None:
    engine = an_engine(cost=COST)
    ran = run_virtual(run_job("single", engine, budget=budget))
    error = ran.raised
    assert isinstance(error, BudgetTooSmall)
    assert error.limit == cap
    assert error.needed > getattr(budget, cap)
    assert not engine.log
    assert ran.result.usage.total_tokens == 0
    enough = Budget(**{cap: error.needed if cap in {"max_usd", "max_flops"} else int(error.needed)})
    again = run_virtual(run_job("single", an_engine(arithmetic(accuracy=1.0), cost=COST), budget=enough))
    assert again.result.text == "6", "what is said to be needed is enough"


def test_a_problem_that_the_model_cannot_read_is_refused_before_anything_is_spent() -> None:
    engine = an_engine(context_length=40)
    ran = run_virtual(run_job("single", engine, problem="What is 1 + 2? " * 50))
    assert isinstance(ran.raised, ContextOverflow)
    assert not engine.log


def test_the_reserve_can_be_spent_once_there_is_an_answer() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        first = yield Expand([query.root], max_tokens=200)
        before = first.snapshot.remaining["output_tokens"]
        second = yield Expand([query.root], max_tokens=before)
        assert len(second) == 1
        return first[0]

    ran = run_virtual(
        run_job(
            policy,
            an_engine("The answer is \\boxed{6}."),
            budget=Budget(max_output_tokens=250, answer_reserve_tokens=48),
        )
    )
    assert ran.result.text == "6"
    grants = [grant for row in ran.rows if row.kind == "dispatch" for grant in row.data["grants"]]
    assert grants[1] == 250 - ran.result.tree["0.0"].output_tokens


def test_a_cap_above_the_job_binds_it_too() -> None:
    tenant = Ledger(Budget(max_output_tokens=300), name="tenant")
    ran = run_virtual(run_job(whole_samples, an_engine(arithmetic(accuracy=1.0)), ledger=tenant))
    assert ran.result.text == "6"
    assert ran.result.limited_by == "max_output_tokens"
    assert tenant.spent.output_tokens == ran.result.usage.output_tokens <= 300
    assert tenant.reserved.to_json() == {}
    tenant.check_integrity()


def test_a_policy_that_catches_the_refusal_answers_itself() -> None:
    seen: list[BudgetExhausted] = []

    def policy(query: Any, ctx: Any) -> Any:
        try:
            while True:
                yield Expand([query.root], 3, max_tokens=30)
        except BudgetExhausted as error:
            seen.append(error)
        return "mine"

    ran = run_virtual(run_job(policy, budget=Budget(max_output_tokens=200), replays=False))
    assert ran.result.text == "mine"
    assert ran.result.stop_reason is StopReason.COMPLETED
    assert ran.result.limited_by == "max_output_tokens"
    assert seen[0].limit == "max_output_tokens"
    assert seen[0].requested > seen[0].remaining


@pytest.mark.parametrize("max_seconds", [0.5, 3.0, 40.0])
def test_nothing_is_dispatched_after_the_deadline_and_the_answer_comes_in_time(max_seconds: float) -> None:
    step_s = 0.03
    engine = an_engine(arithmetic(), latency=Latency(prefill_s=0.05, token_s=step_s, jitter=0.3))
    ran = run_virtual(run_job(greedy_spender, engine, budget=Budget(max_seconds=max_seconds)))
    assert ran.seconds <= max_seconds + step_s * 1.3 + 0.25
    assert ran.result.stop_reason is (StopReason.DEADLINE if ran.result.text else StopReason.FAILED)
    assert ran.result.limited_by == "max_seconds"
    assert all(request.deadline_s is not None and request.deadline_s > 0 for request in engine.log)


def test_before_the_deadline_a_job_without_an_answer_is_concluded() -> None:
    def script(prompt: Any, seed: int) -> Any:
        return "6}." if prompt.continuation_text.endswith("\\boxed{") else babble()(prompt, seed)

    engine = an_engine(script, latency=Latency(prefill_s=0.05, token_s=0.05))
    ran = run_virtual(run_job("single", engine, budget=Budget(max_seconds=20)))
    assert ran.result.text == "6"
    assert 17 <= ran.seconds <= 20
    assert ran.result.stop_reason is StopReason.DEADLINE
    assert ran.result.tree["1.0"].finish is not None


def test_what_a_judge_says_is_no_answer_that_a_deadline_could_wait_for() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Expand([ctx.new_root([Message("user", "Which is better?")])])
        yield Expand([query.root], max_tokens=1000)

    def script(prompt: Any, seed: int) -> Any:
        if "better" in prompt.messages[-1].content:
            return "The better one is \\boxed{2}."
        return "6}." if prompt.continuation_text.endswith("\\boxed{") else babble()(prompt, seed)

    engine = an_engine(script, latency=Latency(token_s=0.05))
    ran = run_virtual(run_job(policy, engine, budget=Budget(max_seconds=20)))
    assert ran.result.text == "6"
    assert ran.result.stop_reason is StopReason.DEADLINE


def test_a_job_that_swallows_its_deadline_and_says_nothing_still_ends_for_its_deadline() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        try:
            yield Expand([query.root], max_tokens=1000)
        except BudgetExhausted:
            return None

    def script(prompt: Any, seed: int) -> Any:
        return "6}." if prompt.continuation_text.endswith("\\boxed{") else babble()(prompt, seed)

    engine = an_engine(script, latency=Latency(token_s=0.05))
    ran = run_virtual(run_job(policy, engine, budget=Budget(max_seconds=20)))
    assert ran.result.text == "6"
    assert ran.result.stop_reason is StopReason.DEADLINE


def test_with_an_answer_the_time_is_used_up_to_the_deadline() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        yield Propose(Answer("early"))
        yield Expand([query.root], max_tokens=1000)

    engine = an_engine(babble(), latency=Latency(token_s=0.05))
    ran = run_virtual(run_job(policy, engine, budget=Budget(max_seconds=20)))
    assert ran.result.text == "early"
    assert 20 <= ran.seconds <= 20.3


def test_a_deadline_without_any_answer_is_no_answer() -> None:
    engine = an_engine(babble(), latency=Latency(prefill_s=100))
    ran = run_virtual(run_job("single", engine, budget=Budget(max_seconds=5)))
    assert isinstance(ran.raised, NoAnswer | BudgetExhausted)
    assert ran.seconds <= 5.25


def test_usage_adds_up_by_hand() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        samples = yield Expand([query.root], 2)
        more = yield Expand([samples[0]], 1, forced=" and", max_tokens=3)
        return Answer("done", more[0])

    def script(prompt: Any, seed: int) -> str:
        return WORDS if not prompt.continuation else " a b c d e f"

    engine = an_engine(script, cost=COST)
    ran = run_virtual(run_job(policy, engine))
    first, second = (engine.count_prompt_tokens(request.prompt) for request in engine.log)
    usage = ran.result.usage
    assert second == first + 11 + 1  # eleven tokens of text, and " and"
    cached = first + 11  # the first sample's text was remembered with its prompt
    assert (usage.prompt_tokens, usage.output_tokens, usage.model_calls) == (first + second, 2 * 12 + 3, 3)
    assert usage.cached_prompt_tokens == cached
    assert usage.picodollars == 10**6 * (first + second - cached) + 10**5 * cached + 4 * 10**6 * 27

    def flops(start: int, n: int) -> int:
        return 2 * 1000 * n + 2 * 10 * n * (2 * start + n)

    expected = flops(0, first) + 2 * flops(first, 12) + flops(cached, second - cached) + flops(second, 3)
    assert usage.flops == expected
    kv_bytes = 2 * 4 * 2
    reads = kv_bytes * (first * 12 + 2 * 12 * 12 // 2) + kv_bytes * (second * 3) + kv_bytes * 3 * 3 // 2
    assert usage.effective_flops == pytest.approx(expected + KINETICS_INTENSITY * reads, abs=3)
    assert usage.max_sequential_tokens == 15
    assert usage.peak_parallel_sequences == 2
    assert not usage.is_estimated
    assert usage.verifier_tokens == {}


def test_reservations_cover_what_samples_can_cost() -> None:
    for context, prompt, output in ((100, 100, 50), (100, 0, 50), (7, 7, 1)):
        reserved = sample_amount(COST, context_tokens=context, prompt_tokens=prompt, output_tokens=output)
        for cached in (0, prompt // 2):
            used = sample_usage(
                COST, context_tokens=context, prompt_tokens=prompt, cached_tokens=cached, output_tokens=output
            )
            assert used.flops <= reserved.flops
            assert used.picodollars <= reserved.picodollars
            assert used.total_tokens <= reserved.total_tokens


def test_verifier_tokens_are_counted_by_model_and_are_part_of_the_totals() -> None:
    small, large = an_engine(arithmetic(accuracy=1.0)), an_engine(judge(0.9), name="judge")
    ran = run_virtual(run_job("best_of_n", small, roles={"verifier": large}, params={"n": 3, "verifier": "generative"}))
    prompts = sum(large.count_prompt_tokens(request.prompt) for request in large.log)
    usage = ran.result.usage
    assert usage.verifier_calls == 3
    assert usage.verifier_tokens == {"judge": prompts + 3}
    samples = sum(node.output_tokens for node in ran.result.tree)
    assert usage.output_tokens == samples + 3
    assert usage.model_calls == 6


def test_when_only_some_judgements_can_be_paid_for_the_other_scores_are_missing() -> None:
    small, large = an_engine(arithmetic(accuracy=1.0)), an_engine(judge(0.9), name="judge")
    ran = run_virtual(
        run_job(
            "best_of_n",
            small,
            roles={"verifier": large},
            params={"n": 3, "verifier": "generative"},
            budget=Budget(max_model_calls=5),
        )
    )
    assert ran.result.usage.model_calls == 5
    assert ran.result.limited_by == "max_model_calls"
    assert ran.result.text == "6"
    scored = [node for node in ran.result.tree if ran.result.tree.scores(node)]
    assert len(scored) == 2


def test_conclude_may_draw_on_the_reserve_and_nothing_else_may() -> None:
    def policy(query: Any, ctx: Any) -> Any:
        (thought,) = yield Expand([query.root], max_tokens=80)
        try:
            yield Expand([thought], max_tokens=20)
        except BudgetExhausted:
            node = yield Conclude(thought)
            return node
        return "the reserve was spent"

    def script(prompt: Any, seed: int) -> Any:
        return "6}." if prompt.continuation_text.endswith("\\boxed{") else babble()(prompt, seed)

    budget = Budget(max_output_tokens=100, answer_reserve_tokens=20)
    ran = run_virtual(run_job(policy, an_engine(script), budget=budget))
    assert ran.result.text == "6"


def test_the_books_of_the_ledger_above_are_right_when_the_task_is_cancelled() -> None:
    async def work() -> None:
        from orchestrator import Orchestrator
        from orchestrator.testing.virtual_time import VirtualClock

        tenant = Ledger(name="tenant")
        engine = an_engine(babble(), latency=Latency(token_s=0.01), tokens_per_delta=1)
        async with Orchestrator(engine, ledger=tenant, clock=VirtualClock()) as ttc:
            task = asyncio.create_task(ttc.solve("What is 1 + 1?", policy="self_consistency", params={"n": 4}))
            await asyncio.sleep(1.0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert tenant.reserved.to_json() == {}
        counted = await engine.health()
        assert tenant.spent.output_tokens >= counted.output_tokens > 0

    run_virtual(work())
