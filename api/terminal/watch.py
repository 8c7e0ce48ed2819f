"""What a watcher knows of a running job, gathered from its events; how it is shown is left to others."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from orchestrator.api.growth import Growth
from orchestrator.api.story import action_words
from orchestrator.budget import Budget
from orchestrator.engine import FinishReason
from orchestrator.events import Event

_RATE_WINDOW_S = 5.0

Json = dict[str, Any]  # Any: JSON values


class Spend(NamedTuple):
    """What has gone under one cap."""

    cap: str
    spent: float
    limit: float


class JobWatch:
    """Counts samples, votes and money of one job.

    Args:
        clock: Monotonic seconds.

    Attributes:
        job_id: Known once the job has started.
        policy: Its policy.
        growth: Its tree.
        doing: The action under way; empty between actions.
        answer: The best answer so far.
        confidence: The policy's confidence in it.
        num_unscored: Scores that a verifier did not give.
        score_problem: Why, for the first of them that has a reason.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._elapsed_before_s = 0.0
        self._budget = Budget()
        self._running: dict[str, int] = {}
        self._answers: dict[str, str | None] = {}
        self.growth = Growth()
        self.doing = ""
        self._finished_tokens = 0
        self._num_failed = 0
        self._usage: Json = {}
        self._recent: deque[tuple[float, int]] = deque()
        self.job_id: str | None = None
        self.policy = ""
        self.answer: str | None = None
        self.confidence: float | None = None
        self.num_unscored = 0
        self.score_problem = ""

    def take(self, event: Event) -> None:
        """Notes an event; unknown kinds are ignored."""
        self.growth.take(event.kind, event.data)
        handler = self._HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event.data)

    # -- what is known -----------------------------------------------------------------------------------------

    @property
    def num_finished(self) -> int:
        """Samples that ended."""
        return len(self._answers)

    @property
    def num_running(self) -> int:
        """Samples being generated."""
        return len(self._running)

    @property
    def elapsed_s(self) -> float:
        """Seconds on the job's own clock."""
        return self._elapsed_before_s + self._clock() - self._started_at

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second over the last seconds."""
        now = self._clock()
        while self._recent and self._recent[0][0] < now - _RATE_WINDOW_S:
            self._recent.popleft()
        window = min(_RATE_WINDOW_S, now - self._started_at)
        return sum(tokens for _, tokens in self._recent) / window if window > 0.2 else 0.0

    @property
    def output_tokens(self) -> int:
        """Settled, and of samples under way."""
        return self._done_tokens + sum(self._running.values())

    @property
    def _done_tokens(self) -> int:
        """Samples are settled in order, so the books may lag behind what has finished."""
        return max(int(self._usage.get("output_tokens", 0)), self._finished_tokens)

    def votes(self) -> list[tuple[str, int]]:
        """Finished samples by answer, most first."""
        return Counter(answer for answer in self._answers.values() if answer is not None).most_common()

    @property
    def num_silent(self) -> int:
        """Finished samples without an answer; steps on the way to one are not among them."""
        silent = (self.growth.branches[node_id] for node_id, answer in self._answers.items() if answer is None)
        return sum(branch.is_leaf and branch.node.finish is not FinishReason.STOP for branch in silent)

    def spending(self) -> list[Spend]:
        """What has gone under each cap the job has."""
        spent = {
            "max_output_tokens": self.output_tokens,
            "max_total_tokens": self._usage.get("prompt_tokens", 0) + self.output_tokens,
            "max_model_calls": self._usage.get("model_calls", 0) + len(self._running),
            "max_tool_calls": self._usage.get("tool_calls", 0),
            "max_usd": self._usage.get("picodollars", 0) / 1e12,
            "max_flops": self._usage.get("flops", 0),
            "max_seconds": self.elapsed_s,
        }
        limits = self._budget.to_json()
        return [Spend(cap, value, limits[cap]) for cap, value in spent.items() if cap in limits]

    # -- events ------------------------------------------------------------------------------------------------

    def _on_started(self, data: Json) -> None:
        self.job_id, self.policy = data["job_id"], data["policy"]
        self._budget = Budget.from_json(data["spec"]["budget"])

    def _on_begin(self, data: Json) -> None:
        self.doing = f"{data['action']['type']} {action_words(data['action'])}".strip()

    def _on_dispatch(self, data: Json) -> None:
        for unit in data["units"]:
            self._running.setdefault(f"{data['a']}.{unit}", 0)

    def _on_delta(self, data: Json) -> None:
        if data["node"] in self._running:
            self._running[data["node"]] += data["tokens"]
        self._recent.append((self._clock(), data["tokens"]))

    def _on_sample(self, data: Json) -> None:
        node_id = f"{data['a']}.{data['i']}"
        self._running.pop(node_id, None)
        self._finished_tokens += data["usage"].get("output_tokens", 0)
        if data.get("failed"):
            self._num_failed += 1
        else:
            self._answers[node_id] = data["node"].get("answer_class") or data["node"].get("answer")

    def _on_done(self, data: Json) -> None:
        """Delivered samples have their answer's class by now, which several spellings share."""
        self._elapsed_before_s = max(self._elapsed_before_s, data.get("t", 0.0) - (self._clock() - self._started_at))
        self.doing = ""
        action, outcome = data["action"], data["outcome"]
        units: list[tuple[int | None, str | None]] = []
        if "units" in outcome:
            units = [(unit, answer_class) for unit, answer_class in outcome["units"]]
        elif "unit" in outcome:
            units = [(outcome["unit"], outcome.get("class"))]
        position = action.get("stream", data["a"])
        for unit, answer_class in units:
            if answer_class is not None and f"{position}.{unit}" in self._answers:
                self._answers[f"{position}.{unit}"] = answer_class
        if action["type"] == "Score":
            self.num_unscored += sum(score is None for score in outcome.get("scores", ()))
            self.score_problem = self.score_problem or next(iter(outcome.get("problems", ())), "")
        if action["type"] == "Propose":
            self.answer, self.confidence = action["answer"]["text"], action["answer"].get("confidence")

    def _on_spent(self, data: Json) -> None:
        self._usage = data["usage"]

    def _on_result(self, data: Json) -> None:
        result = data["result"]
        self.answer, self.confidence = result.answer.text, result.answer.confidence
        self._running.clear()
        self._usage = result.usage.to_json()

    _HANDLERS: dict[str, Callable[[JobWatch, Json], None]] = {  # noqa: RUF012  # a table, never changed
        "started": _on_started,
        "begin": _on_begin,
        "dispatch": _on_dispatch,
        "delta": _on_delta,
        "sample": _on_sample,
        "done": _on_done,
        "spent": _on_spent,
        "result": _on_result,
    }
