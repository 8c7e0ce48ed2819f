"""All metrics of the service, declared once, and where they are read: ``/metrics``.

Counters add up over processes and restarts as Prometheus expects. No label holds an id, a tenant or a text of a caller.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from orchestrator.store import JobState

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where processes that share a port keep their counts, so that each can tell those of all."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_TOKENS = ("role", "model")
_ENGINE = ("model", "engine")


class Metrics:
    """The metrics of one process.

    Attributes:
        jobs: Jobs that ended, by policy and state.
        stops: Why they ended.
        limits: Which cap bound first, where one did.
        running: Jobs that run in this process.
        job_seconds: How long they ran.
        first_answer: From a job's creation to the first token of its answer.
        queue_wait: From a job's creation to its start.
        tokens: Tokens by role and model of who read or wrote them; ``kind`` is prompt, cached_prompt or output.
        lost_tokens: Tokens that were paid for and lost when a process died.
        recomputed_tokens: Tokens that engines computed again since their cache had given them up.
        model_calls: Sequences sampled and forward passes asked for.
        spend: US dollars.
        kv_logical, kv_unique: Tokens of trees as if no prefix were shared, and with shared ones counted once.
        verifier_calls: Trajectories scored.
        verifier_agreement: Whether the answer a verifier scored highest was the job's.
        engine_failures: Samples that failed for good, by error.
        engine_retries: Samples that were sent again.
        engine_sequences: Sequences in engines, by state: running, waiting.
        engine_kv_tokens: Tokens that KV caches have room for, by state: used, free.
        engine_steps: Batches that engines ran.
        engine_sampled_tokens: Tokens that engines sampled, those nobody was given included.
        engine_preemptions: Times a sequence had to give up its KV.
        engine_prefix_tokens: Prompt tokens looked for in prefix caches, by outcome: hit, miss.
        engine_drafts, engine_draft_tokens: Guesses of speculative decoding, and their tokens: accepted, rejected.
        http_requests: By method, route and status.
        http_seconds: From the request to the end of its response.
        http_open: Requests that are being answered.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the package has no types there
        self.registry = registry = CollectorRegistry()
        self.jobs = Counter("ttc_jobs_total", "Jobs that ended", ["policy", "state"], registry=registry)
        self.stops = Counter("ttc_stops_total", "Why jobs ended", ["policy", "reason"], registry=registry)
        self.limits = Counter("ttc_limits_total", "First cap that bound", ["limit"], registry=registry)
        self.running = Gauge("ttc_running_jobs", "Jobs that run here", registry=registry, multiprocess_mode="livesum")
        self.job_seconds = Histogram(
            "ttc_job_wall_seconds", "Running time of jobs", ["policy"], registry=registry, buckets=_SECONDS
        )
        self.first_answer = Histogram(
            "ttc_first_answer_token_seconds",
            "From creation to the answer's first token",
            ["policy"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.queue_wait = Histogram(
            "ttc_queue_wait_seconds", "From creation to start", registry=registry, buckets=_SECONDS
        )
        self.tokens = Counter("ttc_tokens_total", "Tokens", [*_TOKENS, "kind"], registry=registry)
        self.lost_tokens = Counter("ttc_lost_tokens_total", "Paid for by processes that died", registry=registry)
        self.recomputed_tokens = Counter("ttc_recomputed_tokens_total", "Computed once more", registry=registry)
        self.model_calls = Counter("ttc_model_calls_total", "Samples and forward passes", _TOKENS, registry=registry)
        self.spend = Counter("ttc_spend_usd_total", "US dollars", _TOKENS, registry=registry)
        self.kv_logical = Counter("ttc_kv_logical_tokens_total", "As if no prefix were shared", registry=registry)
        self.kv_unique = Counter("ttc_kv_unique_tokens_total", "Shared prefixes counted once", registry=registry)
        self.verifier_calls = Counter("ttc_verifier_calls_total", "Trajectories", ["verifier"], registry=registry)
        self.verifier_agreement = Counter(
            "ttc_verifier_agreement_total",
            "Best-scored and final answer",
            ["verifier", "agrees"],
            registry=registry,
        )
        self.engine_failures = Counter("ttc_engine_failures_total", "Failed samples", ["code"], registry=registry)
        self.engine_retries = Counter("ttc_engine_retries_total", "Samples sent again", ["role"], registry=registry)
        self.engine_sequences = Gauge(
            "ttc_engine_sequences",
            "Sequences in engines",
            [*_ENGINE, "state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.engine_kv_tokens = Gauge(
            "ttc_engine_kv_tokens",
            "Room of KV caches",
            [*_ENGINE, "state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.engine_steps = Counter("ttc_engine_steps_total", "Batches", _ENGINE, registry=registry)
        self.engine_sampled_tokens = Counter(
            "ttc_engine_sampled_tokens_total", "Sampled, delivered or not", _ENGINE, registry=registry
        )
        self.engine_preemptions = Counter(
            "ttc_engine_preemptions_total", "Sequences that gave up their KV", _ENGINE, registry=registry
        )
        self.engine_prefix_tokens = Counter(
            "ttc_engine_prefix_tokens_total",
            "Looked for in prefix caches",
            [*_ENGINE, "outcome"],
            registry=registry,
        )
        self.engine_drafts = Counter("ttc_engine_drafts_total", "Guesses", _ENGINE, registry=registry)
        self.engine_draft_tokens = Counter(
            "ttc_engine_draft_tokens_total", "Guessed tokens", [*_ENGINE, "outcome"], registry=registry
        )
        self.http_requests = Counter(
            "ttc_http_requests_total", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self.http_seconds = Histogram(
            "ttc_http_request_seconds", "HTTP requests", ["method", "route"], registry=registry, buckets=_SECONDS
        )
        self.http_open = Gauge(
            "ttc_http_open_requests", "Being answered", registry=registry, multiprocess_mode="livesum"
        )
        self.build = Gauge("ttc_build_info", "Always 1", ["version"], registry=registry, multiprocess_mode="mostrecent")
        self.build.labels(version("ttc-orchestrator")).set(1)
        self._requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        if DIRECTORY_VARIABLE not in os.environ:
            ProcessCollector(registry=registry)

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an HTTP request; the route is a template, of which there are few."""
        found = self._requests.get((method, route, status))
        if found is None:
            found = self._requests[method, route, status] = (
                self.http_requests.labels(method, route, str(status)),
                self.http_seconds.labels(method, route),
            )
        count, duration = found
        count.inc()
        duration.observe(seconds)

    def names(self) -> set[str]:
        """Names of all series that can appear, as PromQL writes them; those of the process itself left out."""
        own = [value for value in vars(self).values() if isinstance(value, MetricWrapperBase)]
        families = [family for metric in own for family in metric.describe()]
        return {name for family in families for name in _series(family)} | {_QUEUE}

    def exposition(self, counts: dict[JobState, int] | None) -> bytes:
        """The text that Prometheus reads.

        Args:
            counts: Jobs in the store by state; None if the store cannot say.
        """
        registry = self.registry
        if DIRECTORY_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # as above
        text = generate_latest(registry)
        if counts is not None:
            once = CollectorRegistry()
            once.register(_Queue(counts))
            text += generate_latest(once)
        return text


_QUEUE = "ttc_queue_jobs"


class _Queue(Collector):
    """Unfinished jobs in the store, as they were a moment ago."""

    def __init__(self, counts: dict[JobState, int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(_QUEUE, "Unfinished jobs in the store, of all processes", labels=["state"])
        for state in JobState:
            if not state.is_terminal:
                family.add_metric([state.value], self._counts.get(state, 0))
        yield family


def _series(family: Metric) -> list[str]:
    if family.type == "counter":
        return [f"{family.name}_total"]
    if family.type == "histogram":
        return [f"{family.name}{suffix}" for suffix in ("_bucket", "_count", "_sum")]
    return [family.name]


@contextmanager
def shared_between_processes() -> Iterator[None]:
    """Has processes that are started inside the context keep their counts in one folder.

    That is the one that ``PROMETHEUS_MULTIPROC_DIR`` names, else one of their own.
    """
    if DIRECTORY_VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ttc-metrics-") as directory:
        os.environ[DIRECTORY_VARIABLE] = directory
        try:
            yield
        finally:
            del os.environ[DIRECTORY_VARIABLE]


def forget_process(pid: int) -> None:
    """Takes what a process that has died was doing out of the gauges; its counts stay."""
    if DIRECTORY_VARIABLE in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]  # the package has no types there
