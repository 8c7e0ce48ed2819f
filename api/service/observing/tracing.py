"""OpenTelemetry traces: job > action > engine call, with the attributes of its conventions for generative AI.

A job's span is made from its events, by whichever process runs it; the trace it belongs to comes with its labels. Spans
hold counts and names, no text. Nothing here runs unless the ``OTEL_`` variables ask for it.

Calls to remote engines do not carry the trace context on: engines take no headers per request.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points, version

from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from orchestrator.api.service.observing.context import trace_context
from orchestrator.errors import InvalidRequest, MissingDependency
from orchestrator.events import Event, Publish
from orchestrator.job import Result
from orchestrator.journal import Json
from orchestrator.store import JobRecord, JobState
from orchestrator.usage import Usage

_OPERATION = "gen_ai.operation.name"
_MODEL = "gen_ai.request.model"
_PROVIDER = "gen_ai.provider.name"
_INPUT, _CACHED, _OUTPUT = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.output_tokens",
)
_OPERATIONS = {"Embed": "embeddings", "CallTool": "execute_tool"}
_EXPORTERS = "opentelemetry_traces_exporter"
_SHUTDOWN_MS = 5000


def tracing_from_environment(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Tracing as the standard variables ask for it; None if they do not.

    ``OTEL_TRACES_EXPORTER`` names the exporter (``otlp``, ``console``, or another package's); with an
    ``OTEL_EXPORTER_OTLP_ENDPOINT`` it is ``otlp``. ``OTEL_SDK_DISABLED=true`` and ``none`` turn it off.

    Raises:
        MissingDependency: The exporter's package is not installed.
        InvalidRequest: There is no exporter of that name.
    """
    name = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    has_endpoint = any(environment.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT", "").strip() for part in ("", "TRACES_"))
    name = name or ("otlp" if has_endpoint else "none")
    if name == "none" or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if name == "otlp":
        protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    return Tracing(_exporter(name)())


def _exporter(name: str) -> Callable[[], SpanExporter]:
    found = {entry.name: entry for entry in entry_points(group=_EXPORTERS)}
    if name in found:
        exporter: Callable[[], SpanExporter] = found[name].load()
        return exporter
    if name.startswith("otlp_proto_"):
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        raise MissingDependency(package=package, extra="service", purpose="sending traces")
    raise InvalidRequest(
        f"OTEL_TRACES_EXPORTER={name!r} is no exporter; installed: {', '.join(sorted(found))}",
        field="OTEL_TRACES_EXPORTER",
        value=name,
    )


class Tracing:
    """Makes spans of requests and jobs; an observer of the runner, too.

    Args:
        exporter: Where they go.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "ttc"})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ttc-orchestrator", version("ttc-orchestrator"))

    def __call__(self, record: JobRecord) -> Publish:
        """Watches one job."""
        return JobSpans(self._tracer, record)

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[tuple[Span, dict[str, str]]]:
        """The span of an HTTP request, and the trace context of what is done for it."""
        context = extract(trace_context(headers))
        with self._tracer.start_as_current_span(method, context=context, kind=SpanKind.SERVER) as span:
            carrier: dict[str, str] = {}
            inject(carrier, set_span_in_context(span, context))
            yield span, carrier

    def flush(self) -> None:
        """Sends what is ready."""
        self._provider.force_flush(_SHUTDOWN_MS)

    def close(self) -> None:
        """Sends the rest and ends."""
        self._provider.shutdown()


class JobSpans:
    """The spans of one life of one job; see `orchestrator.journal` for the rows they are made of.

    Args:
        tracer: Makes them.
        record: The job.
    """

    def __init__(self, tracer: Tracer, record: JobRecord) -> None:
        self._tracer = tracer
        policy = str(record.spec.get("policy", ""))
        self._job = tracer.start_span(
            f"invoke_workflow {policy}",
            context=extract(trace_context(record.spec.get("labels", {}))),
            kind=SpanKind.INTERNAL,
            attributes={
                _OPERATION: "invoke_workflow",
                _PROVIDER: "ttc",
                "gen_ai.workflow.name": policy,
                "ttc.job.id": record.id,
                "ttc.job.epoch": record.epoch,
                "ttc.tenant": record.tenant,
            },
        )
        self._context = set_span_in_context(self._job)
        self._actions: dict[int, _ActionSpan] = {}
        # A life that is cut off says nothing; its spans end when nobody holds on to it any more.
        self._abandon = weakref.finalize(self, _abandon, self._job, self._actions)

    def __call__(self, event: Event) -> None:
        """Follows the job."""
        data = event.data
        match event.kind:
            case "begin":
                self._actions[data["a"]] = _ActionSpan(self._tracer, self._context, data["action"])
            case "dispatch":
                self._action_of(data).dispatch(data)
            case "sample":
                self._action_of(data).settle(data)
            case "done":
                self._note_done(data)
            case "result":
                self._finish(data["result"])

    def _action_of(self, data: Json) -> _ActionSpan:
        """The action's span; one that an earlier life has begun gets another one here."""
        position = data["a"]
        if position not in self._actions:
            self._actions[position] = _ActionSpan(self._tracer, self._context, {"type": "Resumed"})
        return self._actions[position]

    def _note_done(self, data: Json) -> None:
        action = data["action"]
        if action["type"] == "Start":  # its samples are still to come
            return
        is_over = action["type"] == "Cancel" or (
            action["type"] == "Next" and data["outcome"].get("unit") is None and "error" not in data
        )
        if is_over and (stream := self._actions.pop(action["stream"], None)) is not None:
            stream.end({})
        elif (span := self._actions.pop(data["a"], None)) is not None:
            span.end(data)

    def _finish(self, result: Result) -> None:
        self._abandon.detach()
        _end_all(self._actions)
        usage = result.usage
        self._job.set_attributes(
            _tokens(usage)
            | {
                "ttc.job.state": result.state.value,
                "ttc.job.stop_reason": result.stop_reason.value,
                "ttc.job.num_samples": result.num_samples,
                "ttc.usage.usd": usage.usd,
            }
        )
        if result.limited_by is not None:
            self._job.set_attribute("ttc.job.limited_by", result.limited_by)
        if result.state is JobState.FAILED:
            _fail(self._job, "" if result.error is None else result.error.code)
        self._job.end()


def _end_all(actions: dict[int, _ActionSpan]) -> None:
    for action in actions.values():
        action.end({})
    actions.clear()


def _abandon(job: Span, actions: dict[int, _ActionSpan]) -> None:
    _end_all(actions)
    _fail(job, "given_up")
    job.end()


class _ActionSpan:
    """One action and the engine calls that it makes."""

    def __init__(self, tracer: Tracer, context: Context, action: Json) -> None:
        kind = action["type"]
        self._tracer = tracer
        self._request = action.get("expand", action)
        self._operation = _OPERATIONS.get(kind, "chat")
        self._span = tracer.start_span(f"ttc.{kind.lower()}", context=context, attributes={"ttc.action.type": kind})
        if "verifier" in action:
            self._span.set_attribute("ttc.verifier", str(action["verifier"]))
        if kind == "CallTool":
            self._span.set_attributes({_OPERATION: "execute_tool", "gen_ai.tool.name": str(action["name"])})
        self._context = set_span_in_context(self._span, context)
        self._calls: dict[int, _Call] = {}
        self._work: list[Span] = []

    def dispatch(self, data: Json) -> None:
        """A request is about to be sent."""
        units: list[int] = data["units"]
        model = str(self._request.get("model", "unknown" if units else "verifier"))
        span = self._tracer.start_span(
            f"{self._operation} {model}",
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes={_OPERATION: self._operation, _PROVIDER: "ttc", _MODEL: model},
        )
        if not units:  # a verifier's or an embedder's; its end is the action's
            self._work.append(span)
            return
        span.set_attribute("gen_ai.request.choice.count", len(units))
        span.set_attribute("gen_ai.request.max_tokens", max(data["grants"]))
        call = _Call(span, len(units))
        for unit in units:
            if (earlier := self._calls.get(unit)) is not None:  # it failed, and this one goes on with its sample
                earlier.hand_on()
            self._calls[unit] = call

    def settle(self, data: Json) -> None:
        """One of its samples is finished."""
        call = self._calls.pop(data["i"], None)
        if call is not None:
            call.settle(data)

    def end(self, done: Json) -> None:
        """Ends the action and what it still has open."""
        usage = Usage.from_json(done.get("usage", {}))
        for call in dict.fromkeys(self._calls.values()):
            call.end()
        for span in self._work:
            if len(self._work) == 1:
                span.set_attributes(_tokens(usage))
            span.end()
        if usage.total_tokens:
            self._span.set_attributes(_tokens(usage))
        if (error := done.get("error")) is not None:
            _fail(self._span, str(error["code"]))
        self._span.end()


class _Call:
    """A request to an engine, until all its samples are finished or handed on."""

    def __init__(self, span: Span, num_open: int) -> None:
        self._span = span
        self._num_open = num_open
        self._usage = Usage()
        self._reasons: list[str] = []

    def settle(self, data: Json) -> None:
        """A sample is finished or has failed."""
        self._usage += Usage.from_json(data["usage"])
        if (node := data.get("node")) is None:
            self._reasons.append("error")
            _fail(self._span, str(data["failed"]["code"]))
        else:
            self._reasons.append(str(node.get("finish") or ""))
            if node.get("model"):
                self._span.set_attribute("gen_ai.response.model", str(node["model"]))
        self._leave()

    def hand_on(self) -> None:
        """Another request goes on with a sample of this one, which failed."""
        _fail(self._span, "engine_failed")
        self._leave()

    def _leave(self) -> None:
        self._num_open -= 1
        if not self._num_open:
            self.end()

    def end(self) -> None:
        """Ends the span with what is known."""
        self._span.set_attributes(_tokens(self._usage))
        self._span.set_attribute("gen_ai.response.finish_reasons", self._reasons)
        self._span.end()


def _tokens(usage: Usage) -> dict[str, str | bool | int | float]:
    return {_INPUT: usage.prompt_tokens, _CACHED: usage.cached_prompt_tokens, _OUTPUT: usage.output_tokens}


def _fail(span: Span, code: str) -> None:
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", code or "unknown")
