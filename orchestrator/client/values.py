"""What the service says, as frozen values: jobs, their results, batches, policies and models.

Unknown fields are ignored, so that a newer service can be spoken to; missing ones that matter are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.actions import Answer
from orchestrator.budget import Budget
from orchestrator.client.failures import error_from_json
from orchestrator.errors import ServiceFailed, TtcError
from orchestrator.job import StopReason
from orchestrator.store import JobState
from orchestrator.usage import Usage

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What came of a job: `orchestrator.Result` as it travels, without the tree.

    Attributes:
        job_id: The job.
        state: ``succeeded``, ``failed``, ``cancelled`` or ``waiting``.
        answer: The answer with its confidence and rivals; its text is None if there is none.
        stop_reason: Why it ended; a `StopReason` where this version knows it.
        limited_by: The cap that first refused or shortened something; None if none did.
        usage: Everything spent.
        budget: What was allowed.
        error: What went wrong, for failed jobs.
        question: What a waiting job asks.
        num_samples: Samples finished.
    """

    job_id: str
    state: JobState
    answer: Answer
    stop_reason: str
    usage: Usage
    budget: Budget = field(default_factory=Budget)
    limited_by: str | None = None
    error: TtcError | None = None
    question: str | None = None
    num_samples: int = 0

    @property
    def text(self) -> str | None:
        """The answer's text."""
        return self.answer.text

    @property
    def confidence(self) -> float | None:
        """How sure the policy is; see `Answer.confidence_kind` for of what."""
        return self.answer.confidence

    @property
    def confidence_kind(self) -> str | None:
        """What `confidence` is the probability of."""
        return self.answer.confidence_kind

    @property
    def alternatives(self) -> tuple[tuple[str, float], ...]:
        """Rival answers with their shares, best first."""
        return self.answer.alternatives

    def raise_for_error(self) -> Self:
        """The result itself.

        Raises:
            TtcError: What made the job fail.
        """
        if self.error is not None:
            raise self.error
        return self

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # Any: JSON values
        """The inverse of `orchestrator.Result.to_json`.

        Raises:
            ServiceFailed: It is no result.
        """
        with _reading("a result"):
            error = data.get("error")
            return cls(
                job_id=data["job_id"],
                state=JobState(data["state"]),
                answer=Answer(
                    data.get("answer"),
                    confidence=data.get("confidence"),
                    confidence_kind=data.get("confidence_kind"),
                    alternatives=tuple((item["answer"], item["share"]) for item in data.get("alternatives") or ()),
                ),
                stop_reason=_stop_reason(data["stop_reason"]),
                limited_by=data.get("limited_by"),
                usage=Usage.from_json(data.get("usage") or {}),
                budget=_budget(data.get("budget")),
                error=None if error is None else error_from_json(error),
                question=data.get("question"),
                num_samples=data.get("num_samples") or 0,
            )


class _reading:  # noqa: N801  # a context manager, used like a function
    """Turns what is missing from an answer, or has the wrong type, into `ServiceFailed`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise ServiceFailed(
                f"the service sent {self._what} that this version cannot read ({type(error).__name__}: {error}); "
                "are client and service of one version?",
                is_retryable=False,
            ) from error


def _stop_reason(text: str) -> str:
    return StopReason(text) if text in set(StopReason) else text


def _budget(data: Mapping[str, Any] | None) -> Budget:
    names = Budget.__dataclass_fields__
    return Budget(**{name: value for name, value in (data or {}).items() if name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the service knows it.

    Attributes:
        id: The job.
        state: Where it is in its life.
        created_at: Seconds since the epoch.
        result: What came of it; None while it is unfinished.
        data: All that the service said of it, as JSON values.
    """

    id: str
    state: JobState
    created_at: float = 0.0
    result: JobResult | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # Any: JSON values

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it unless somebody answers its question."""
        return self.state.is_terminal or self.state is JobState.WAITING

    def outcome(self) -> JobResult:
        """The result; one without an answer for a job that ended before it began.

        Raises:
            ServiceFailed: The job goes on.
        """
        if self.result is not None:
            return self.result
        if not self.is_over:
            raise ServiceFailed(f"job {self.id!r} is {self.state.value}; it has no result yet")
        return JobResult(
            job_id=self.id, state=self.state, answer=Answer(None), stop_reason=_REASONS[self.state], usage=Usage()
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # Any: JSON values
        """A job as the service writes it.

        Raises:
            ServiceFailed: It is no job.
        """
        with _reading("a job"):
            result = data.get("result")
            return cls(
                id=data["id"],
                state=JobState(data["state"]),
                created_at=float(data.get("created_at") or 0.0),
                result=None if result is None else JobResult.from_json(result),
                data=data,
            )


_REASONS = {
    JobState.WAITING: StopReason.WAITING,
    JobState.SUCCEEDED: StopReason.COMPLETED,
    JobState.FAILED: StopReason.FAILED,
    JobState.CANCELLED: StopReason.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Many problems under one budget, as the service knows them.

    Attributes:
        id: The batch.
        jobs: Its jobs, in the order of their problems.
        counts: How many jobs are in each state that has any.
        is_finished: Whether all of them have ended.
        usage: What those that have ended have cost together.
        data: All that the service said of it, as JSON values.
    """

    id: str
    jobs: tuple[Job, ...]
    counts: Mapping[JobState, int]
    is_finished: bool
    usage: Usage
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # Any: JSON values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # Any: JSON values
        """A batch as the service writes it.

        Raises:
            ServiceFailed: It is no batch.
        """
        with _reading("a batch"):
            return cls(
                id=data["id"],
                jobs=tuple(map(Job.from_json, data["jobs"])),
                counts={JobState(state): count for state, count in data["counts"].items()},
                is_finished=data["is_finished"],
                usage=Usage.from_json(data["usage"]),
                data=data,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """A policy that the service has.

    Attributes:
        name: As jobs name it.
        summary: What it does, in a sentence.
        data: All that the service said of it, as JSON values.
    """

    name: str
    summary: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # Any: JSON values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # Any: JSON values
        """A policy as the service writes it."""
        with _reading("a policy"):
            return cls(name=data["name"], summary=data.get("summary") or "", data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A name that a chat request may give as its model.

    Attributes:
        id: The name.
        data: All that the service said of it, as JSON values.
    """

    id: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)  # Any: JSON values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # Any: JSON values
        """A model as the service writes it."""
        with _reading("a model"):
            return cls(id=data["id"], data=data)
