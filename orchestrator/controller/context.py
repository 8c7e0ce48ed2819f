"""What the parts of one running job share: its books, its journal, its tree, and the word to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.actions import Snapshot
from orchestrator.answers import AnswerClasses, AnswerReader
from orchestrator.budget import NOTHING, Amount
from orchestrator.clock import Clock
from orchestrator.controller.recorder import Recorder
from orchestrator.errors import BudgetExhausted, TtcError
from orchestrator.events import Event, IsWatched, Publish
from orchestrator.fleet import Fleet
from orchestrator.job import JobSpec, StopReason
from orchestrator.journal import Recording
from orchestrator.ledger import Ledger
from orchestrator.tree import Tree
from orchestrator.usage import Usage


@dataclass(frozen=True, slots=True)
class Interruption:
    """Why a job must stop now, and what its policy is told."""

    reason: StopReason
    error: TtcError


@dataclass(slots=True, kw_only=True)
class RunContext:
    """One running job.

    Attributes:
        job_id: The job.
        spec: What was asked for.
        fleet: Models it may use.
        ledger: Its own ledger.
        recorder: Its journal, for writing.
        recording: Its journal, as it was when this controller took over.
        tree: Everything bought so far.
        reader: Finds and compares answers.
        classes: Groups them.
        clock: Time.
        started_at: Monotonic time at which the job's own clock stood at zero.
        due_at: By when its answer is wanted, seconds since the epoch; None for no such time.
        publish: Hands events to watchers; None when nobody watches.
        is_watched: Whether watchers want what is not durable, too; None for always.
        tools: What `CallTool` may call.
        usage: Spent and settled, over all lives of the job.
        interruption: Set once, when the job must stop.
        limited_by: The first cap that refused or shortened something.
        num_samples: Samples finished.
        live_sequences: In flight now.
        peak_sequences: Most that ever were.
        committed: Id of the node whose text is the answer, if the policy said so.
        root_tokens: Length of the conversations that were read, by root.
        answering: Id of the first node to continue the committed one; its text is streamed as the answer's.
        tasks: Where requests run; set while the job runs.
        known_above: What the ledgers above this job's have been charged for it already, in an earlier life in this
            process.
        on_interrupt: Called when `interruption` is set, by those who wait.
        verifier_memory: What verifiers want to find again in later actions; never journaled.
    """

    job_id: str
    spec: JobSpec
    fleet: Fleet
    ledger: Ledger
    recorder: Recorder
    recording: Recording
    tree: Tree
    reader: AnswerReader
    classes: AnswerClasses
    clock: Clock
    started_at: float
    due_at: float | None = None
    publish: Publish | None = None
    is_watched: IsWatched | None = None
    tools: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # Any: JSON values in and out
    usage: Usage = field(default_factory=Usage)
    interruption: Interruption | None = None
    limited_by: str | None = None
    num_samples: int = 0
    live_sequences: int = 0
    peak_sequences: int = 0
    committed: str | None = None
    answering: str | None = None
    root_tokens: dict[str, int] = field(default_factory=dict)
    tasks: asyncio.TaskGroup | None = None
    known_above: Amount = NOTHING
    on_interrupt: set[Callable[[], None]] = field(default_factory=set)
    verifier_memory: dict[str, Any] = field(default_factory=dict)  # Any: whatever a verifier keeps
    _num_requests: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds on the job's own clock."""
        return self.clock.monotonic() - self.started_at

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the deadline, by the budget or by when the answer is wanted; None without one."""
        limit = self.spec.budget.max_seconds
        left = None if limit is None else limit - self.elapsed_s
        if self.due_at is not None:
            until_due = self.due_at - self.clock.time()
            left = until_due if left is None else min(left, until_due)
        return None if left is None else max(0.0, left)

    @property
    def tells_all(self) -> bool:
        """Whether somebody wants what is not durable, of which there is much."""
        return self.publish is not None and (self.is_watched is None or self.is_watched())

    def snapshot(self) -> Snapshot:
        """The budget as it stands."""
        return Snapshot(
            remaining=self.ledger.remaining(), elapsed_s=round(self.elapsed_s, 3), remaining_s=self.remaining_s
        )

    def next_request_id(self) -> str:
        """Unique over all lives of the job: a new life has a higher journal position."""
        self._num_requests += 1
        return f"{self.job_id}/{self.recording.next_seq}.{self._num_requests}"

    def note_limit(self, error: BudgetExhausted) -> None:
        """Remembers the first cap that bound."""
        if self.limited_by is None:
            self.limited_by = error.limit

    def add_usage(self, usage: Usage) -> None:
        """Adds what has been settled."""
        self.usage += usage
        if self.tells_all:
            self.emit("spent", {"usage": self.usage.to_json(), "remaining": self.ledger.remaining()})

    def sequences_changed(self, change: int) -> None:
        """Counts sequences in flight."""
        self.live_sequences += change
        self.peak_sequences = max(self.peak_sequences, self.live_sequences)

    def emit(self, kind: str, data: dict[str, Any]) -> None:  # Any: JSON values
        """Tells watchers something that is not durable."""
        if self.publish is not None:
            self.publish(Event(kind, data))

    def interrupt(self, reason: StopReason, error: TtcError) -> None:
        """Stops everything this job has in flight; the first reason counts."""
        if self.interruption is not None:
            return
        self.interruption = Interruption(reason, error)
        for wake in tuple(self.on_interrupt):
            wake()

    def check_interruption(self) -> None:
        """Raises what the policy is to be told, if the job must stop."""
        if self.interruption is not None:
            raise self.interruption.error
