"""An observer that turns the events of jobs into counts."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.api.service.observing.metrics import Metrics
from orchestrator.clock import Clock, SystemClock
from orchestrator.cost import PICODOLLARS_PER_USD
from orchestrator.events import Event, Publish
from orchestrator.job import Result
from orchestrator.journal import Json
from orchestrator.store import JobRecord
from orchestrator.tree import Node

_NAME = re.compile(r"[A-Za-z0-9._@/-]{1,64}")


class JobCounts:
    """Counts what jobs do; see `orchestrator.runner.Observer`.

    Args:
        metrics: Where it is counted.
        clock: Time.
    """

    def __init__(self, metrics: Metrics, *, clock: Clock | None = None) -> None:
        self._metrics = metrics
        self._clock = clock or SystemClock()

    def __call__(self, record: JobRecord) -> Publish:
        """Watches one job."""
        return _Watch(self._metrics, record, self._clock)


class _Watch:
    """One life of one job. It counts rows as they are written, so a job that goes on elsewhere is counted once."""

    def __init__(self, metrics: Metrics, record: JobRecord, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._created_at = record.created_at
        self._policy = named(record.spec.get("policy", ""))
        self._roles: dict[int, str] = {}
        self._sent: set[tuple[int, int]] = set()
        self._has_answered = False
        metrics.running.inc()
        self._end = weakref.finalize(self, metrics.running.dec)  # also of a life that is cut off and says nothing
        self._end.atexit = False
        if record.epoch <= 1:
            metrics.queue_wait.observe(max(0.0, clock.time() - record.created_at))

    def __call__(self, event: Event) -> None:
        """Counts an event."""
        if (handler := _HANDLERS.get(event.kind)) is not None:
            handler(self, event.data)

    def _note_begin(self, data: Json) -> None:
        self._roles[data["a"]] = _role_of(data["action"])

    def _note_dispatch(self, data: Json) -> None:
        units = {(data["a"], unit) for unit in data["units"]}
        if again := len(units & self._sent):
            self._metrics.engine_retries.labels(self._role(data)).inc(again)
        self._sent |= units

    def _note_sample(self, data: Json) -> None:
        node = data.get("node")
        if node is None:
            self._metrics.engine_failures.labels(str(data["failed"]["code"])).inc()
        self._count(data["usage"], role=self._role(data), model="" if node is None else node.get("model", ""))

    def _note_done(self, data: Json) -> None:
        action, usage = data["action"], data.get("usage")
        if usage is not None:
            models = list(usage.get("verifier_tokens", ()))
            self._count(usage, role=_role_of(action), model=models[0] if len(models) == 1 else "")
            if calls := usage.get("verifier_calls"):
                self._metrics.verifier_calls.labels(named(action.get("verifier", ""))).inc(calls)

    def _note_lost(self, data: Json) -> None:
        self._count(data["usage"], role="lost", model="")

    def _note_answer(self, _: Json) -> None:
        if not self._has_answered:
            self._has_answered = True
            waited_s = max(0.0, self._clock.time() - self._created_at)
            self._metrics.first_answer.labels(self._policy).observe(waited_s)

    def _note_result(self, data: Json) -> None:
        self._end()
        result: Result = data["result"]
        if not result.state.is_terminal:
            return
        metrics, usage = self._metrics, result.usage
        metrics.jobs.labels(self._policy, result.state.value).inc()
        metrics.stops.labels(self._policy, result.stop_reason.value).inc()
        metrics.job_seconds.labels(self._policy).observe(usage.wall_s)
        if result.limited_by is not None:
            metrics.limits.labels(result.limited_by).inc()
        metrics.kv_logical.inc(usage.logical_kv_tokens)
        metrics.kv_unique.inc(usage.unique_kv_tokens)
        for verifier, agrees in agreements(result).items():
            metrics.verifier_agreement.labels(named(verifier), "yes" if agrees else "no").inc()

    def _role(self, data: Json) -> str:
        return self._roles.get(data["a"], "unknown")

    def _count(self, data: Json, *, role: str, model: str) -> None:
        metrics, labels = self._metrics, (role, named(model) if model else "")
        cached = data.get("cached_prompt_tokens", 0)
        kinds = {
            "prompt": data.get("prompt_tokens", 0) - cached,
            "cached_prompt": cached,
            "output": data.get("output_tokens", 0),
        }
        for kind, tokens in kinds.items():
            if tokens > 0:
                metrics.tokens.labels(*labels, kind).inc(tokens)
        if calls := data.get("model_calls"):
            metrics.model_calls.labels(*labels).inc(calls)
        if picodollars := data.get("picodollars"):
            metrics.spend.labels(*labels).inc(picodollars / PICODOLLARS_PER_USD)
        if lost := data.get("lost_tokens"):
            metrics.lost_tokens.inc(lost)
        if recomputed := data.get("recomputed_tokens"):
            metrics.recomputed_tokens.inc(recomputed)


_HANDLERS: Mapping[str, Callable[[_Watch, Json], None]] = {
    "begin": _Watch._note_begin,
    "dispatch": _Watch._note_dispatch,
    "sample": _Watch._note_sample,
    "done": _Watch._note_done,
    "lost": _Watch._note_lost,
    "answer_delta": _Watch._note_answer,
    "result": _Watch._note_result,
}


def agreements(result: Result) -> dict[str, bool]:
    """Whether the finished answer that a verifier scored highest is the job's answer, by verifier.

    Verifiers that scored no finished answer are left out, and so are jobs without one.
    """
    best: dict[str, tuple[float, Node]] = {}
    for node in result.tree:
        if node.answer is None:
            continue
        for verifier, score in result.tree.scores(node).items():
            if verifier not in best or score > best[verifier][0]:
                best[verifier] = (score, node)
    if result.text is None or not best:
        return {}
    same = {node.answer_class for node in result.tree if node.answer == result.text} - {None}
    return {verifier: node.answer == result.text or node.answer_class in same for verifier, (_, node) in best.items()}


def named(text: Any) -> str:  # Any: a JSON value
    """A name as a label; what is no name (a function's path is one, a program's own text is not) becomes ``other``."""
    return text if isinstance(text, str) and _NAME.fullmatch(text) else "other"


def _role_of(action: Json) -> str:
    kind = action["type"]
    if kind == "Start":
        return named(action["expand"].get("model"))
    if kind in {"Score", "CallTool"}:
        return {"Score": "verifier", "CallTool": "tool"}[kind]
    return named(action["model"]) if "model" in action else "none"
