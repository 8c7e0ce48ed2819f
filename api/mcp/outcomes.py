"""What the tools answer, as pydantic models (their JSON schemas are told to clients), and how far a job is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from orchestrator.actions import Answer
from orchestrator.client import Job, JobResult
from orchestrator.errors import TtcError
from orchestrator.events import Event
from orchestrator.job import Result, stored_result
from orchestrator.store import JobRecord, JobState
from orchestrator.usage import Usage


class Alternative(BaseModel):
    """A rival answer."""

    answer: str
    share: float = Field(description="Of the votes, or its score")


class Outcome(BaseModel):
    """A job as it is now."""

    job_id: str
    state: JobState = Field(description="queued, running, waiting (for an answer to `question`), or how it has ended")
    answer: str | None = Field(None, description="The answer; null while there is none")
    confidence: float | None = Field(None, description="How sure the search is, from 0 to 1; null if it cannot say")
    confidence_kind: str | None = Field(None, description="What `confidence` is the probability of")
    alternatives: list[Alternative] = Field(default_factory=list, description="Rival answers, best first")
    stop_reason: str | None = Field(None, description="Why the search ended")
    limited_by: str | None = Field(None, description="The cap that first stopped something")
    num_samples: int = 0
    output_tokens: int = Field(0, description="Spent, samples that were not chosen included")
    total_tokens: int = Field(0, description="The same and tokens read")
    usd: float = 0.0
    question: str | None = Field(None, description="What a waiting job asks a person")
    error: str | None = Field(None, description="What went wrong, for failed jobs")

    @classmethod
    def of_result(cls, result: Result | JobResult) -> Outcome:
        """The outcome that a result is."""
        answer: Answer = result.answer
        usage: Usage = result.usage
        error: TtcError | None = result.error
        return cls(
            job_id=result.job_id,
            state=result.state,
            answer=answer.text,
            confidence=answer.confidence,
            confidence_kind=answer.confidence_kind,
            alternatives=[Alternative(answer=text, share=share) for text, share in answer.alternatives],
            stop_reason=result.stop_reason,
            limited_by=result.limited_by,
            num_samples=result.num_samples,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            usd=usage.usd,
            question=result.question,
            error=None if error is None else str(error),
        )

    @classmethod
    def of_job(cls, job: Job | JobRecord) -> Outcome:
        """The outcome of a job, finished or not."""
        result = stored_result(job) if isinstance(job, JobRecord) else job.result
        return cls(job_id=job.id, state=job.state) if result is None else cls.of_result(result)


class Progress:
    """How far a job is, from its events.

    Attributes:
        num_samples: Finished.
        answer: The best one so far.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self.answer: str | None = None
        self._live_tokens = 0
        self._settled_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Output tokens; it never falls."""
        return max(self._live_tokens, self._settled_tokens)

    @property
    def message(self) -> str:
        """For people."""
        answer = "" if self.answer is None else f", best answer so far: {self.answer[:80]}"
        return f"{self.num_samples} samples, {self.num_tokens} tokens{answer}"

    def take(self, event: Event) -> None:
        """Notes an event."""
        data = event.data
        if event.kind == "delta":
            self._live_tokens += data.get("tokens", 0)
        elif event.kind == "sample":
            self.num_samples += 1
            self._settled_tokens += _spent(data)
            node = data.get("node") or {}
            self.answer = self.answer or node.get("answer")
        elif event.kind == "done":
            action = data.get("action") or {}
            if action.get("type") == "Propose":
                self.answer = action["answer"]["text"] or self.answer


def _spent(data: dict[str, Any]) -> int:  # Any: JSON values
    tokens: int = (data.get("usage") or {}).get("output_tokens", 0)
    return tokens
