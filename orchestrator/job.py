"""A job: what was asked for, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from orchestrator.actions import Answer
from orchestrator.budget import Budget
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest, TtcError, from_fields
from orchestrator.reply_form import FREE_FORM, ReplyForm
from orchestrator.sampling import Sampling
from orchestrator.store import SCHEMA_VERSION, JobRecord, JobState
from orchestrator.tree import Node, Tree
from orchestrator.usage import Usage

MAX_PROBLEM_CHARS = 1_000_000


class StopReason(StrEnum):
    """Why a job ended."""

    COMPLETED = "completed"  # the policy returned
    BUDGET = "budget"  # a cap was reached before the policy was done
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    OVERRUN = "overrun"  # a remote server spent more than was reserved
    WAITING = "waiting"  # for a person
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What was asked for; enough to run the job again in another process.

    Attributes:
        problem: As the caller wrote it.
        messages: The conversation shown to models.
        policy: A registered name, or ``module:function``; one that starts with ``<`` cannot be imported again, so
            the job cannot be resumed.
        params: The policy's parameters.
        fingerprint: Of the policy and its parameters.
        budget: Caps.
        seed: All randomness of the job derives from it.
        answer_kind: How answers are read (see `orchestrator.verifiers.answers`).
        sampling: Overrides the policy's sampling; None to leave it.
        max_sample_tokens: Most tokens per sample where the policy does not say.
        models: Role to model specification, for those who must open the fleet again.
        labels: The caller's own.
        form: Demands on replies.
        cache_salt: Given to engines; jobs with different ones never share cached prefixes.
        is_bound: It ends with the process that took it (a chat): nobody goes on with it.
        request_digest: Of the request as it was sent, to know it again when it is sent twice.
    """

    problem: str
    messages: tuple[Message, ...]
    policy: str
    params: dict[str, Any] = field(default_factory=dict)  # Any: JSON values
    fingerprint: str = ""
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    answer_kind: str = "auto"
    sampling: Sampling | None = None
    max_sample_tokens: int = 1024
    models: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    form: ReplyForm = FREE_FORM
    cache_salt: str = ""
    is_bound: bool = False
    request_digest: str = ""

    def __post_init__(self) -> None:
        if not self.problem.strip():
            raise InvalidRequest("the problem is empty; give a question or a task", field="problem", value="")
        if len(self.problem) > MAX_PROBLEM_CHARS:
            raise InvalidRequest(
                f"the problem has {len(self.problem)} characters, at most {MAX_PROBLEM_CHARS} are accepted",
                field="problem",
                value=self.problem,
            )
        try:
            self.problem.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"the problem is not valid Unicode text (a lone surrogate at position {error.start})", field="problem"
            ) from None
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise InvalidRequest(f"seed must be a whole number from 0 to 2**63 - 1, not {self.seed!r}", field="seed")
        if self.max_sample_tokens < 1:
            raise InvalidRequest(
                f"max_sample_tokens must be at least 1, not {self.max_sample_tokens}",
                field="max_sample_tokens",
                value=self.max_sample_tokens,
            )

    @property
    def is_resumable(self) -> bool:
        """Whether another process may go on with it, and can import its policy."""
        return not self.is_bound and not self.policy.startswith("<")

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "schema": SCHEMA_VERSION,
            "problem": self.problem,
            "messages": [message.to_json() for message in self.messages],
            "policy": self.policy,
            "params": self.params,
            "fingerprint": self.fingerprint,
            "budget": self.budget.to_json(),
            "seed": self.seed,
            "answer_kind": self.answer_kind,
            "sampling": None if self.sampling is None else asdict(self.sampling),
            "max_sample_tokens": self.max_sample_tokens,
            "models": self.models,
            "labels": self.labels,
            "form": self.form.to_json(),
            "cache_salt": self.cache_salt,
            "is_bound": self.is_bound,
            "request_digest": self.request_digest,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        values = {key: value for key, value in data.items() if key != "schema"}
        values["messages"] = tuple(map(Message.from_json, data["messages"]))
        values["form"] = ReplyForm.from_json(data.get("form", {}))
        values["budget"] = Budget.from_json(data["budget"])
        values["sampling"] = None if data["sampling"] is None else Sampling(**data["sampling"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a job.

    Attributes:
        job_id: The job.
        state: ``succeeded``, ``failed``, ``cancelled`` or ``waiting``.
        answer: The answer with its confidence and rivals; its text is None if there is none.
        stop_reason: Why it ended.
        limited_by: The cap that first refused or shortened something; None if none did.
        usage: Everything spent.
        budget: What was allowed.
        tree: All text that was paid for.
        error: What went wrong, for failed jobs.
        question: What a waiting job asks.
        num_samples: Samples finished.
        committed_text: The text that the policy declared to be the answer, if it did.
    """

    job_id: str
    state: JobState
    answer: Answer
    stop_reason: StopReason
    usage: Usage
    budget: Budget
    tree: Tree
    limited_by: str | None = None
    error: TtcError | None = None
    question: str | None = None
    num_samples: int = 0
    committed_text: str | None = None

    @property
    def text(self) -> str | None:
        """The answer's text."""
        return self.answer.text

    @property
    def confidence(self) -> float | None:
        """How sure the policy is; see `Answer.confidence_kind` for of what."""
        return self.answer.confidence

    def raise_for_error(self) -> Self:
        """The result itself.

        Raises:
            TtcError: What made the job fail.
        """
        if self.error is not None:
            raise self.error
        return self

    def to_json(self) -> dict[str, Any]:
        """The result without its tree, as JSON values."""
        answer = self.answer
        return {
            "job_id": self.job_id,
            "state": self.state.value,
            "answer": answer.text,
            "confidence": answer.confidence,
            "confidence_kind": answer.confidence_kind,
            "alternatives": [{"answer": text, "share": share} for text, share in answer.alternatives],
            "node": answer.node.id if answer.node else None,
            "stop_reason": self.stop_reason.value,
            "limited_by": self.limited_by,
            "num_samples": self.num_samples,
            "usage": self.usage.to_json(),
            "total_tokens": self.usage.total_tokens,
            "usd": self.usage.usd,
            "budget": self.budget.to_json(),
            "error": None if self.error is None else self.error.fields(),
            "question": self.question,
        }


def stored_result(record: JobRecord) -> Result | None:
    """The result of a finished job as the store has it, without its tree; None while it is unfinished."""
    data = record.result
    if data is None:
        return None
    spec = JobSpec.from_json(record.spec)
    return Result(
        job_id=record.id,
        state=record.state,
        answer=Answer(
            data["answer"],
            confidence=data["confidence"],
            confidence_kind=data["confidence_kind"],
            alternatives=tuple((item["answer"], item["share"]) for item in data["alternatives"]),
        ),
        stop_reason=StopReason(data["stop_reason"]),
        limited_by=data["limited_by"],
        usage=Usage.from_json(data["usage"]),
        budget=spec.budget,
        tree=Tree(Node(id="0", messages=spec.messages)),
        error=None if data["error"] is None else from_fields(data["error"]),
        question=data["question"],
        num_samples=data["num_samples"],
    )
