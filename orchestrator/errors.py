"""Every error a caller can meet, and the one table that maps them to exit codes and HTTP statuses.

    TtcError
    |-- CallerError                 the request is at fault; the message names the field, the value, the way out
    |   |-- InvalidRequest          a field has a value that cannot be used
    |   |   `-- ContextOverflow     the prompt is longer than the model can read
    |   |-- BudgetTooSmall          the budget cannot pay for the shortest answer
    |   |-- UnknownName             no policy, verifier, router, engine, model or job has that name
    |   |-- CapabilityMissing       the engine cannot do what was asked
    |   |-- MissingDependency       an optional package is not installed
    |   |-- Unauthorized            the service does not know who asks
    |   |-- Forbidden               the service does not take this request from there
    |   |-- TooLarge                the request has more bytes than are accepted
    |   |-- TooSlow                 the request did not arrive in time
    |   |-- TooManyRequests         asked too often, or too much is waiting; the error says when to ask again
    |   |-- NoPlan                  no fleet serves that load within those objectives; the error says what would
    |   `-- JobConflict             the job is in a state that does not allow this
    `-- RunFailure                  the request was fine; carrying it out failed
        |-- BudgetExhausted         nothing more fits; thrown into a policy at its ``yield``
        |-- EngineFailed            a model could not be run or stopped in the middle
        |-- ModelUnavailable        model weights are missing, corrupt, or no source could be reached
        |-- VerifierHung            a verifier keeps threads busy and cannot be killed
        |-- PolicyFailed            a policy raised, or yielded something that is no action
        |-- NoAnswer                the budget was spent and no text holds an answer
        |-- ReplayDiverged          the policy asks for something else than its journal says
        |-- StoreFailed             the store cannot be read or written
        |-- ServiceStopping         the service is being stopped and takes nothing new
        |-- ServiceFailed           the service cannot be reached, or answers what cannot be used (clients only)
        `-- LeaseLost               another controller owns the job now

Fields are attributes; ``str(error)`` is one sentence for people; ``error.fields()`` is for machines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple


class Mapping(NamedTuple):
    """How an error leaves the process."""

    exit_code: int
    http_status: int


class TtcError(Exception):
    """Base of all errors of this package.

    Args:
        message: One sentence; what happened, to which value, and the way out.
        **fields: What a program needs to react (JSON values).
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def fields(self) -> dict[str, object]:
        """The error as JSON values: ``code``, ``message`` and its own fields."""
        return {"code": self.code, "message": self.message, **self._fields}

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self._fields)


def _rebuild(kind: type[TtcError], message: str, fields: dict[str, object]) -> TtcError:
    error = kind.__new__(kind)
    TtcError.__init__(error, message, **fields)
    return error


class CallerError(TtcError):
    """The request is at fault."""

    code = "caller_error"


class InvalidRequest(CallerError):
    """A field of the request has a value that cannot be used.

    Attributes:
        field: The field's name as the caller wrote it.
        value: The offending value, shortened.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, field: str, value: object = None, **fields: object) -> None:
        super().__init__(message, field=field, value=_shortened(value), **fields)
        self.field = field


class ContextOverflow(InvalidRequest):
    """The prompt and the shortest continuation do not fit in the model's context."""

    code = "context_overflow"

    def __init__(self, *, model: str, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"the prompt is {prompt_tokens} tokens long but model {model!r} reads at most {context_length} "
            "including the reply; shorten the prompt or choose a model with a longer context",
            field="prompt",
            value=None,
            model=model,
            prompt_tokens=prompt_tokens,
            context_length=context_length,
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class BudgetTooSmall(CallerError):
    """The budget cannot pay for the shortest answer.

    Attributes:
        limit: The cap that is too low, as named in `Budget`.
        value: What it was set to.
        needed: What the shortest answer costs.
    """

    code = "budget_too_small"

    def __init__(self, *, limit: str, value: float, needed: float) -> None:
        super().__init__(
            f"budget {limit}={value:g} cannot pay for the shortest answer, which needs {needed:g}; raise {limit}",
            limit=limit,
            value=value,
            needed=needed,
        )
        self.limit = limit
        self.needed = needed


class UnknownName(CallerError):
    """No such policy, verifier, router, engine, model or job.

    Attributes:
        kind: What was looked up, for instance ``"policy"``.
        name: The name that was asked for.
        known: The names that exist, sorted.
    """

    code = "unknown_name"

    def __init__(self, *, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        listing = ", ".join(names) if names else "none"
        message = f"unknown {kind} {_shortened(name)!r}; known: {listing}{hint and '; ' + hint}"
        super().__init__(message, kind=kind, name=_shortened(name), known=names)
        self.kind = kind
        self.name = name
        self.known = names


class CapabilityMissing(CallerError):
    """The engine lacks what was asked of it.

    Attributes:
        model: The model whose engine was asked.
        capability: What it lacks.
        able: Models of the fleet that have it.
    """

    code = "capability_missing"

    def __init__(self, *, model: str, capability: str, able: Iterable[str] = ()) -> None:
        names = sorted(able)
        way_out = f"models that can: {', '.join(names)}" if names else "no model of this fleet can"
        super().__init__(
            f"model {model!r} does not support {capability}; {way_out}", model=model, capability=capability, able=names
        )
        self.model = model
        self.capability = capability
        self.able = names


class MissingDependency(CallerError):
    """An optional package is not installed."""

    code = "missing_dependency"

    def __init__(self, *, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: pip install 'ttc-orchestrator[{extra}]'",
            package=package,
            extra=extra,
        )


class JobConflict(CallerError):
    """The job's state does not allow the request."""

    code = "job_conflict"


class NoPlan(CallerError):
    """No fleet serves that load within those objectives, on the GPUs that may be used.

    Attributes:
        reasons: Why, and what would; one sentence each.
    """

    code = "no_plan"

    def __init__(self, message: str, *, reasons: list[str], **fields: object) -> None:
        super().__init__(message, reasons=reasons, **fields)
        self.reasons = reasons


class Unauthorized(CallerError):
    """The service does not know who asks: no API key, or one that is not valid."""

    code = "invalid_api_key"


class Forbidden(CallerError):
    """The service does not take this request from where it comes."""

    code = "forbidden"


class TooLarge(CallerError):
    """The request has more bytes than are accepted.

    Attributes:
        max_bytes: How many are.
    """

    code = "request_too_large"


class TooSlow(CallerError):
    """The request's body did not arrive in time."""

    code = "request_timeout"


class TooManyRequests(CallerError):
    """Asked too often, or too much is waiting or running already.

    Attributes:
        retry_after_s: When to ask again.
    """

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, **fields: object) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **fields)
        self.retry_after_s = retry_after_s


class RunFailure(TtcError):
    """The request was fine; carrying it out failed."""

    code = "run_failure"


class BudgetExhausted(RunFailure):
    """Nothing more fits under a cap. Thrown into the policy at its ``yield``.

    Attributes:
        limit: The cap that ran out, as named in `Budget` (``max_seconds`` for the deadline).
        remaining: What was left of it when the action was refused.
        requested: What the smallest useful part of the action would have cost.
        period: For caps of accounts, the period that the cap is for; only then.
    """

    code = "budget_exhausted"

    def __init__(self, *, limit: str, remaining: float, requested: float, period: str | None = None) -> None:
        place, what = ("", "next action") if period is None else (f" in period {period!r}", "job")
        super().__init__(
            f"budget exhausted: {limit} has {remaining:g} left{place} and the {what} needs {requested:g}",
            limit=limit,
            remaining=remaining,
            requested=requested,
            **({} if period is None else {"period": period}),
        )
        self.limit = limit
        self.remaining = remaining
        self.requested = requested


class EngineFailed(RunFailure):
    """A model could not be run, or stopped in the middle of a reply.

    Attributes:
        model: The model that failed.
        is_retryable: Whether the same request may succeed if it is sent again.
    """

    code = "engine_failed"

    def __init__(self, message: str, *, model: str, is_retryable: bool = True) -> None:
        super().__init__(message, model=model, is_retryable=is_retryable)
        self.model = model
        self.is_retryable = is_retryable


class ModelUnavailable(RunFailure):
    """Model weights are missing or corrupt, or no source could be reached."""

    code = "model_unavailable"


class VerifierHung(RunFailure):
    """A verifier does not return and its threads cannot be killed."""

    code = "verifier_hung"


class PolicyFailed(RunFailure):
    """A policy raised an exception, or yielded something that is not an action."""

    code = "policy_failed"


class NoAnswer(RunFailure):
    """The job spent what it could and no text it holds has an answer."""

    code = "no_answer"


class ReplayDiverged(RunFailure):
    """On replay, the policy asked for something else than the journal says it did.

    Attributes:
        position: Index of the first action that differs, from 0.
    """

    code = "replay_diverged"

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(message, position=position)
        self.position = position


class StoreFailed(RunFailure):
    """The store cannot be read or written (disk full, file corrupt, server gone)."""

    code = "store_failed"


class ServiceStopping(RunFailure):
    """The service is being stopped and takes nothing new; another process may."""

    code = "service_stopping"


class ServiceFailed(RunFailure):
    """A client cannot reach its service, or cannot use what it answers.

    Attributes:
        status: The HTTP status of the last answer; None if there was none.
        is_retryable: Whether the same request may succeed later.
    """

    code = "service_failed"

    def __init__(self, message: str, *, status: int | None = None, is_retryable: bool = True) -> None:
        super().__init__(message, status=status, is_retryable=is_retryable)
        self.status = status
        self.is_retryable = is_retryable


class LeaseLost(RunFailure):
    """Another controller owns the job now; this one must not write."""

    code = "lease_lost"


_SHOWN_CHARS = 80

MAPPINGS: dict[type[TtcError], Mapping] = {
    InvalidRequest: Mapping(2, 400),
    BudgetTooSmall: Mapping(2, 400),
    UnknownName: Mapping(2, 404),
    CapabilityMissing: Mapping(2, 422),
    MissingDependency: Mapping(3, 501),
    JobConflict: Mapping(4, 409),
    NoPlan: Mapping(2, 422),
    Unauthorized: Mapping(2, 401),
    Forbidden: Mapping(2, 403),
    TooLarge: Mapping(2, 413),
    TooSlow: Mapping(2, 408),
    TooManyRequests: Mapping(4, 429),
    CallerError: Mapping(2, 400),
    BudgetExhausted: Mapping(5, 402),
    NoAnswer: Mapping(5, 422),
    EngineFailed: Mapping(6, 502),
    ModelUnavailable: Mapping(6, 503),
    VerifierHung: Mapping(7, 500),
    PolicyFailed: Mapping(7, 500),
    ReplayDiverged: Mapping(8, 409),
    StoreFailed: Mapping(9, 503),
    ServiceStopping: Mapping(9, 503),
    ServiceFailed: Mapping(6, 502),
    LeaseLost: Mapping(9, 409),
    RunFailure: Mapping(1, 500),
    TtcError: Mapping(1, 500),
}
"""Exit codes: 2 bad request, 3 not installed, 4 conflict, 5 no answer within the budget, 6 model, 7 policy or
verifier, 8 replay, 9 store; 130 is Ctrl-C. The nearest class on the error's way to the root decides."""


def mapping_of(error: TtcError) -> Mapping:
    """The exit code and the HTTP status of ``error``."""
    for kind in type(error).__mro__:
        if kind in MAPPINGS:
            return MAPPINGS[kind]
    raise AssertionError("TtcError is in the table")


def _shortened(value: object) -> object:
    if isinstance(value, str) and len(value) > _SHOWN_CHARS:
        return f"{value[:_SHOWN_CHARS]}... ({len(value)} characters)"
    return value


def from_fields(fields: dict[str, object]) -> TtcError:
    """The error that `TtcError.fields` came from; unknown codes give a `RunFailure`."""
    kinds = {kind.code: kind for kind in _all_kinds(TtcError)}
    values = {name: value for name, value in fields.items() if name not in {"code", "message"}}
    return _rebuild(kinds.get(str(fields["code"]), RunFailure), str(fields["message"]), values)


def _all_kinds(kind: type[TtcError]) -> Iterable[type[TtcError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all_kinds(child)
