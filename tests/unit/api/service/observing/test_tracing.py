from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from orchestrator.actions import Answer, Expand, Next, Start
from orchestrator.api.service.observing import Observing, trace_labels
from orchestrator.api.service.observing.tracing import Tracing, tracing_from_environment
from orchestrator.config import ServiceSettings
from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.events import Event
from orchestrator.policy import Policy, PolicyContext, Query
from orchestrator.store import JobRecord
from orchestrator.stores.memory import MemoryStore
from orchestrator.testing import Fault, ScriptedEngine, arithmetic, judge, on_calls

from .watched import PROBLEM, run_watched

TRACE_ID, SPAN_ID = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Any:
    tracing = Tracing(exporter)
    yield tracing
    tracing.close()


def spans_of(tracing: Tracing, exporter: InMemorySpanExporter) -> Sequence[ReadableSpan]:
    tracing.flush()
    return exporter.get_finished_spans()


def named(spans: Sequence[ReadableSpan], start: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name.startswith(start)]


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


async def test_a_job_is_a_tree_of_actions_and_engine_calls_whose_tokens_add_up(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    result = await run_watched(
        [tracing],
        roles={"verifier": ScriptedEngine(judge(0.5), name="judge")},
        policy="best_of_n",
        params={"n": 4},
    )
    spans = spans_of(tracing, exporter)
    (job,) = named(spans, "invoke_workflow best_of_n")
    (expand,) = named(spans, "ttc.expand")
    (score,) = named(spans, "ttc.score")
    (call,) = named(spans, "chat small")
    assert is_below(expand, job)
    assert is_below(score, job)
    assert is_below(call, expand)
    assert call.kind is SpanKind.CLIENT
    assert call.attributes is not None
    assert call.attributes["gen_ai.operation.name"] == "chat"
    assert call.attributes["gen_ai.request.model"] == "small"
    assert call.attributes["gen_ai.response.model"] == "scripted"
    assert call.attributes["gen_ai.request.choice.count"] == 4
    assert len(call.attributes["gen_ai.response.finish_reasons"]) == 4  # type: ignore[arg-type]  # a tuple
    judged = named(spans, "chat verifier")
    assert judged
    assert all(is_below(span, score) for span in judged)
    assert job.attributes is not None
    assert score.attributes is not None
    assert job.attributes["gen_ai.usage.output_tokens"] == result.usage.output_tokens
    spent = [span.attributes["gen_ai.usage.output_tokens"] for span in (call, score)]  # type: ignore[index]
    assert sum(spent) == result.usage.output_tokens  # type: ignore[arg-type]  # numbers
    assert job.attributes["ttc.job.state"] == "succeeded"


async def test_no_span_holds_text(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    result = await run_watched([tracing], policy="self_consistency", params={"n": 3})
    told = json.dumps([json.loads(span.to_json()) for span in spans_of(tracing, exporter)])
    assert PROBLEM not in told
    assert "boxed" not in told
    assert all(node.text not in told for node in result.tree if len(node.text) > 10)


async def test_the_job_joins_the_trace_in_its_labels_in_whatever_process_it_runs(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    await run_watched([tracing], policy="single", labels={"traceparent": PARENT})
    (job,) = named(spans_of(tracing, exporter), "invoke_workflow")
    assert f"{job.context.trace_id:032x}" == TRACE_ID
    assert job.parent is not None
    assert f"{job.parent.span_id:016x}" == SPAN_ID


def streams(query: Query, ctx: PolicyContext[Any]) -> Policy:
    """Takes samples one by one, then asks for one more."""
    stream = yield Start(Expand([query.root], num_samples=4, model="small"), parallel=2)
    answer = None
    while (node := (yield Next(stream))) is not None:
        answer = node.answer
    yield Expand([query.root], num_samples=1, model="small")
    return Answer(answer)


async def test_a_stream_of_samples_is_one_action_that_ends_with_it(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    await run_watched([tracing], policy=streams)
    spans = spans_of(tracing, exporter)
    (start,) = named(spans, "ttc.start")
    (expand,) = named(spans, "ttc.expand")
    calls = [call for call in named(spans, "chat small") if is_below(call, start)]
    assert sum(call.attributes["gen_ai.request.choice.count"] for call in calls) == 4  # type: ignore[index,misc]
    assert start.end_time is not None
    assert expand.start_time is not None
    assert start.end_time <= expand.start_time


async def test_a_call_that_failed_and_the_one_that_went_on_are_two_spans(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    engine = ScriptedEngine(arithmetic(accuracy=1.0), faults=on_calls({0: Fault(after_tokens=3)}))
    await run_watched([tracing], engine=engine, policy="single")
    calls = named(spans_of(tracing, exporter), "chat small")
    assert [call.status.status_code for call in calls] == [StatusCode.ERROR, StatusCode.UNSET]


async def test_a_failed_job_says_why_by_its_code(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    engine = ScriptedEngine(arithmetic(accuracy=1.0), faults=on_calls({0: Fault(is_retryable=False)}))
    await run_watched([tracing], engine=engine, policy="single")
    (job,) = named(spans_of(tracing, exporter), "invoke_workflow")
    assert job.status.status_code is StatusCode.ERROR
    assert job.attributes is not None
    assert job.attributes["error.type"] == "engine_failed"


async def test_a_life_that_is_cut_off_leaves_spans_that_say_so(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    watch = tracing(JobRecord(id="j1", spec={"policy": "single"}, epoch=1))
    watch(Event("begin", {"a": 0, "action": {"type": "Expand", "model": "small"}}))
    watch(Event("dispatch", {"a": 0, "r": "r1", "units": [0], "grants": [9]}))
    del watch
    gc.collect()
    spans = spans_of(tracing, exporter)
    assert sorted(span.name for span in spans) == ["chat small", "invoke_workflow single", "ttc.expand"]
    assert named(spans, "invoke")[0].attributes["error.type"] == "given_up"  # type: ignore[index]


async def test_the_next_life_has_spans_of_its_own(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    watch = tracing(JobRecord(id="j1", spec={"policy": "single"}, epoch=2))
    watch(Event("dispatch", {"a": 4, "r": "r2", "units": [1], "grants": [9]}))
    node = {"id": "4.1", "parent": "0", "text": "x", "model": "m", "finish": "end"}
    watch(Event("sample", {"a": 4, "i": 1, "node": node, "usage": {"output_tokens": 7}}))
    (call,) = named(spans_of(tracing, exporter), "chat unknown")
    assert call.attributes is not None
    assert call.attributes["gen_ai.usage.output_tokens"] == 7
    assert call.attributes["gen_ai.response.model"] == "m"


async def test_a_request_is_the_parent_of_the_jobs_it_asks_for(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    app = FastAPI()

    @app.get("/jobs/{job_id}")
    async def look(job_id: str) -> dict[str, str]:
        await asyncio.sleep(0)
        return trace_labels()

    Observing(tracing=tracing).install(app, MemoryStore(), ServiceSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
        labels = (await http.get("/jobs/1", headers={"traceparent": PARENT})).json()
    (request,) = spans_of(tracing, exporter)
    assert request.name == "GET /jobs/{job_id}"
    assert request.kind is SpanKind.SERVER
    assert f"{request.context.trace_id:032x}" == TRACE_ID
    assert labels["traceparent"] == f"00-{TRACE_ID}-{request.context.span_id:016x}-01"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_there_are_no_traces_unless_they_are_asked_for(variables: dict[str, str]) -> None:
    assert tracing_from_environment(variables) is None


def test_an_exporter_that_is_not_there_is_named() -> None:
    with pytest.raises(MissingDependency, match="opentelemetry-exporter-otlp-proto-grpc"):
        tracing_from_environment({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    with pytest.raises(InvalidRequest, match="no-such"):
        tracing_from_environment({"OTEL_TRACES_EXPORTER": "no-such"})


def test_the_console_exporter_can_be_had() -> None:
    tracing = tracing_from_environment({"OTEL_TRACES_EXPORTER": "console"})
    assert tracing is not None
    tracing.close()
