"""What callers of the service send and what they get, as pydantic models; what they mean is decided elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.budget import Budget
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest
from orchestrator.job import MAX_PROBLEM_CHARS
from orchestrator.reply_form import ToolCall
from orchestrator.sampling import Sampling
from orchestrator.store import JobRecord, JobState

MAX_LABELS = 32
_LABEL = Annotated[str, Field(max_length=256)]
_NAME = Annotated[str, Field(min_length=1, max_length=200)]


def _number(value: Any) -> Any:  # Any: a JSON value
    """Texts and truth values are no numbers, though they could be read as some."""
    if isinstance(value, str | bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
Flag = Annotated[bool, Strict()]
"""What is sent as a number, or as true or false, and as nothing else."""

_WHOLE = Annotated[Whole, Field(ge=1, le=2**53)]
_REAL = Annotated[Real, Field(gt=0, le=1e30, allow_inf_nan=False)]


class _Sent(BaseModel):
    """Fields that are not known are refused: a slip of the pen must not change what a job may spend."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ToolCallBody(_Sent):
    """A call that an assistant asked for in an earlier turn."""

    id: Annotated[str, Field(max_length=200)]
    name: Annotated[str, Field(max_length=200)]
    arguments: Annotated[str, Field(max_length=MAX_PROBLEM_CHARS)] = Field("{}", description="JSON text")


class MessageBody(_Sent):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[str, Field(max_length=MAX_PROBLEM_CHARS)]
    tool_calls: tuple[ToolCallBody, ...] = Field((), max_length=128)
    tool_call_id: Annotated[str, Field(max_length=200)] = ""

    def message(self) -> Message:
        """What engines are shown."""
        calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in self.tool_calls)
        return Message(self.role, self.content, calls, self.tool_call_id)


class BudgetBody(_Sent):
    """Caps on what a job may spend; see `orchestrator.Budget`."""

    max_output_tokens: _WHOLE | None = None
    max_total_tokens: _WHOLE | None = None
    max_model_calls: _WHOLE | None = None
    max_tool_calls: Annotated[Whole, Field(ge=0, le=2**53)] | None = None
    max_usd: _REAL | None = None
    max_flops: _REAL | None = None
    max_seconds: _REAL | None = None
    target_confidence: Annotated[Real, Field(gt=0, lt=1)] | None = None
    answer_reserve_tokens: Annotated[Whole, Field(ge=0, le=2**53)] | None = None

    def budget(self) -> Budget:
        """The budget."""
        return Budget.from_json(self.model_dump(exclude_none=True))


def budget_of(given: BudgetBody | str, *, field: str = "budget") -> Budget:
    """A budget that is given as an object or as text.

    Args:
        given: The budget.
        field: What errors call it.

    Raises:
        InvalidRequest: It cannot be read.
    """
    try:
        if isinstance(given, BudgetBody):
            return given.budget()
        budget = Budget.parse(given)
        BudgetBody.model_validate(budget.to_json())
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field=field) from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidRequest(f"{problem['loc'][0]} in {field}: {problem['msg']}", field=field) from None
    return budget


class SamplingBody(_Sent):
    """How tokens are chosen; see `orchestrator.Sampling`."""

    temperature: Annotated[Real, Field(ge=0, le=5)] = 0.7
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Whole, Field(ge=0, le=2**31)] = 0
    min_p: Annotated[Real, Field(ge=0, lt=1)] = 0.0

    def sampling(self) -> Sampling:
        """The sampling."""
        return Sampling(**self.model_dump())


class JobRequest(_Sent):
    """A job that is asked for."""

    problem: Annotated[str, Field(max_length=MAX_PROBLEM_CHARS)] | None = Field(
        None, description="The question or task; by default the last message of the user"
    )
    messages: tuple[MessageBody, ...] | None = Field(
        None, max_length=10_000, description="The conversation to show to models; by default made of the problem"
    )
    policy: _NAME | None = Field(None, description="How the budget is spent (GET /v1/policies)")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the policy")  # Any: JSON values
    budget: BudgetBody | Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Caps, as an object or as text: tokens=2000,seconds=60,usd=0.01"
    )
    verifier: _NAME | None = Field(None, description="Who scores, for policies that ask (GET /v1/verifiers)")
    answer: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        "auto", description="How answers are read: auto, boxed, exact, number, choice, code, json, text, regex:PATTERN"
    )
    sampling: SamplingBody | None = Field(None, description="Overrides the policy's own")
    max_sample_tokens: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Most tokens per sample"
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = Field(0, description="All randomness derives from it")
    labels: dict[_LABEL, _LABEL] = Field(default_factory=dict, max_length=MAX_LABELS, description="The caller's own")
    priority: Annotated[Whole, Field(ge=-100, le=100)] = Field(0, description="Higher ones are taken first")
    deadline_s: _REAL | None = Field(None, description="Seconds from now after which no answer is wanted any more")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.problem is None and not any(turn.role == "user" for turn in self.messages or ()):
            raise ValueError("give a problem, or messages with one of the role 'user'")
        return self

    def text(self) -> str:
        """The problem."""
        if self.problem is not None:
            return self.problem
        return next(turn.content for turn in reversed(self.messages or ()) if turn.role == "user")

    def caps(self) -> Budget | None:
        """The budget.

        Raises:
            InvalidRequest: It cannot be read.
        """
        return None if self.budget is None else budget_of(self.budget)


class InputBody(_Sent):
    """What a person replies to a job that waits."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_PROBLEM_CHARS)]


class BatchRequest(_Sent):
    """Many jobs under one shared budget."""

    requests: tuple[JobRequest, ...] = Field(min_length=1, max_length=100_000, description="The jobs")
    budget: BudgetBody | Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Shared by all jobs, in equal parts; seconds and confidence hold for each"
    )


class ErrorBody(BaseModel):
    """What went wrong, in OpenAI's shape; further fields say what a program needs to react."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorView(BaseModel):
    """The body of every response that is an error."""

    error: ErrorBody


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    object: Literal["job"] = "job"
    state: JobState
    created_at: float = Field(description="Seconds since the epoch")
    updated_at: float
    problem: str
    policy: str
    params: dict[str, Any]  # Any: JSON values
    budget: dict[str, Any]  # Any: numbers by cap
    labels: dict[str, str]
    priority: int
    due_at: float | None
    batch: str | None
    is_cancel_wanted: bool
    answer: str | None = None
    confidence: float | None = None
    confidence_kind: str | None = None
    stop_reason: str | None = None
    limited_by: str | None = None
    question: str | None = Field(None, description="What a waiting job asks; reply with POST .../input")
    error: dict[str, Any] | None = None  # Any: fields of the error
    usage: dict[str, Any] | None = Field(None, description="Everything spent, once the job has ended")  # Any: counts
    result: dict[str, Any] | None = Field(None, description="The whole result")  # Any: JSON values

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """The view of a record."""
        spec, result = record.spec, record.result or {}
        told = ("answer", "confidence", "confidence_kind", "stop_reason", "limited_by", "question", "error", "usage")
        return cls(
            id=record.id,
            state=record.state,
            created_at=record.created_at,
            updated_at=record.updated_at,
            problem=spec["problem"],
            policy=spec["policy"],
            params=spec["params"],
            budget=spec["budget"],
            labels=spec["labels"],
            priority=record.priority,
            due_at=record.due_at,
            batch=record.batch,
            is_cancel_wanted=record.is_cancel_wanted,
            result=record.result,
            **{name: result.get(name) for name in told},
        )


class JobPage(BaseModel):
    """Jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[JobView]
    next_cursor: str | None = Field(None, description="Give it as `cursor` for the next page; null on the last one")


class BatchView(BaseModel):
    """A batch: how far it is, and its jobs in the order in which they were given."""

    id: str
    object: Literal["batch"] = "batch"
    created_at: float
    num_jobs: int
    counts: dict[JobState, int] = Field(description="How many jobs are in each state that has any")
    is_finished: bool
    usage: dict[str, Any] = Field(description="Of the jobs that have ended, together")  # Any: counts
    jobs: list[JobView]


class TreeView(BaseModel):
    """Everything a job has bought."""

    id: str
    state: JobState
    usage: dict[str, Any]  # Any: counts
    votes: list[dict[str, Any]]  # Any: JSON values, here and below
    actions: list[dict[str, Any]]
    levels: list[dict[str, Any]] = Field(description="Of a search")
    tree: list[dict[str, Any]] = Field(description="Nodes in order of creation; `parent` names the one before")


class UsageView(BaseModel):
    """What a job has cost so far."""

    id: str
    state: JobState
    usage: dict[str, Any]  # Any: counts
    total_tokens: int
    usd: float
    budget: dict[str, Any]  # Any: numbers by cap


class ParameterView(BaseModel):
    """One parameter, in words."""

    name: str
    type: str
    default: str
    range: str
    meaning: str


class DescriptionView(BaseModel):
    """A policy or verifier."""

    name: str
    summary: str
    facts: dict[str, str]
    parameters: list[ParameterView]
    problem: str = Field(description="Why it cannot be used here; empty if it can")
    is_usable: bool


class CatalogueView(BaseModel):
    """All of a kind, by name."""

    object: Literal["list"] = "list"
    data: list[DescriptionView]


class HealthView(BaseModel):
    """How the process is."""

    status: Literal["ok", "not ready"]
    problems: list[str] = []
