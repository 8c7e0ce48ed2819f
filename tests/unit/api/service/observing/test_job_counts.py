from __future__ import annotations

import gc
import re

import pytest

from orchestrator import Budget
from orchestrator.api.service.observing.job_counts import JobCounts, named
from orchestrator.api.service.observing.metrics import Metrics
from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.engine import Prompt
from orchestrator.events import Event
from orchestrator.store import JobRecord
from orchestrator.testing import Fault, ScriptedEngine, arithmetic, judge, on_calls

from .watched import run_watched


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum over all series that have these labels."""
    families = metrics.registry.collect()
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


async def test_tokens_calls_and_spend_add_up_to_what_the_job_says_it_cost(metrics: Metrics) -> None:
    prices = ModelCost(prices=TokenPrices(prompt_usd=1.0, output_usd=2.0))
    engine = ScriptedEngine(arithmetic(accuracy=0.7), cost=prices)
    result = await run_watched([JobCounts(metrics)], engine=engine, policy="self_consistency", params={"n": 6})
    usage = result.usage
    assert total(metrics, "ttc_tokens_total", kind="output") == usage.output_tokens > 0
    assert total(metrics, "ttc_tokens_total", kind="cached_prompt") == usage.cached_prompt_tokens
    assert total(metrics, "ttc_tokens_total") == usage.total_tokens
    assert total(metrics, "ttc_model_calls_total", role="small", model="scripted") == usage.model_calls == 6
    assert total(metrics, "ttc_spend_usd_total") == pytest.approx(usage.usd, rel=1e-9)
    assert usage.usd > 0
    assert value(metrics, "ttc_kv_unique_tokens_total") == usage.unique_kv_tokens
    assert value(metrics, "ttc_kv_logical_tokens_total") == usage.logical_kv_tokens > usage.unique_kv_tokens


async def test_a_job_is_counted_once_by_its_policy_state_and_reason(metrics: Metrics) -> None:
    await run_watched([JobCounts(metrics)], policy="single")
    assert value(metrics, "ttc_jobs_total", policy="single", state="succeeded") == 1
    assert value(metrics, "ttc_stops_total", policy="single", reason="completed") == 1
    assert value(metrics, "ttc_job_wall_seconds_count", policy="single") == 1
    assert value(metrics, "ttc_first_answer_token_seconds_count", policy="single") == 1
    assert value(metrics, "ttc_running_jobs") == 0


async def test_the_cap_that_bound_is_counted(metrics: Metrics) -> None:
    result = await run_watched(
        [JobCounts(metrics)], policy="self_consistency", params={"n": 50}, budget=Budget(max_output_tokens=120)
    )
    assert result.limited_by == "max_output_tokens"
    assert value(metrics, "ttc_limits_total", limit="max_output_tokens") == 1


async def test_a_verifiers_work_is_its_own_role_and_it_is_held_against_the_answer(metrics: Metrics) -> None:
    def likes_six(prompt: Prompt) -> float:
        return 0.99 if "boxed{6}" in str(prompt) else 0.01

    result = await run_watched(
        [JobCounts(metrics)],
        engine=ScriptedEngine(arithmetic(accuracy=0.5)),
        roles={"verifier": ScriptedEngine(judge(likes_six), name="judge")},
        policy="best_of_n",
        params={"n": 6},
    )
    assert result.usage.verifier_calls == value(metrics, "ttc_verifier_calls_total", verifier="generative") > 0
    assert total(metrics, "ttc_tokens_total", role="verifier") == sum(result.usage.verifier_tokens.values()) > 0
    assert total(metrics, "ttc_tokens_total") == result.usage.total_tokens
    assert value(metrics, "ttc_verifier_agreement_total", verifier="generative", agrees="yes") == 1


async def test_samples_that_are_sent_again_and_such_that_fail_are_counted(metrics: Metrics) -> None:
    retried = ScriptedEngine(arithmetic(accuracy=1.0), faults=on_calls({0: Fault(after_tokens=3)}))
    await run_watched([JobCounts(metrics)], engine=retried, policy="single")
    assert value(metrics, "ttc_engine_retries_total", role="small") == 1
    assert total(metrics, "ttc_engine_failures_total") == 0
    broken = ScriptedEngine(arithmetic(accuracy=1.0), faults=on_calls({0: Fault(is_retryable=False)}))
    await run_watched([JobCounts(metrics)], engine=broken, policy="single")
    assert value(metrics, "ttc_engine_failures_total", code="engine_failed") == 1
    assert value(metrics, "ttc_jobs_total", policy="single", state="failed") == 1


async def test_a_life_that_is_cut_off_does_not_run_for_ever(metrics: Metrics) -> None:
    watch = JobCounts(metrics)(JobRecord(id="job-1", spec={"policy": "single"}))
    watch(Event("begin", {"a": 0, "action": {"type": "Expand", "model": "small"}}))
    assert value(metrics, "ttc_running_jobs") == 1
    del watch
    gc.collect()
    assert value(metrics, "ttc_running_jobs") == 0


async def test_no_label_holds_what_a_caller_wrote(metrics: Metrics) -> None:
    secret = "my-secret-problem-text 12345"
    await run_watched([JobCounts(metrics)], problem=secret, policy="single", labels={"customer": "secret-customer"})
    text = metrics.exposition({}).decode()
    for hidden in ("secret", "12345", "job-1", "acme"):
        assert hidden not in text


@pytest.mark.parametrize("text", ["a b", "x" * 65, "", 'a"b', "a\nb", None, 5, "<lambda>"])
def test_what_is_no_name_is_other(text: object) -> None:
    assert named(text) == "other"


def test_every_metric_has_the_projects_prefix_a_unit_and_for_counters_total(metrics: Metrics) -> None:
    names = metrics.names()
    assert len(names) > 25
    for name in names:
        assert re.fullmatch(r"ttc_[a-z_]+", name), name
    counters = {f"{family.name}_total" for family in metrics.registry.collect() if family.type == "counter"}
    assert {name for name in counters if name.startswith("ttc_")} <= names
