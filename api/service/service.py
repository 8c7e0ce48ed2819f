"""What the endpoints call: takes jobs in, answers questions about them, runs chats here; there is no HTTP in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from orchestrator.api.service.requests import JobRequest
from orchestrator.api.service.security.principal import Principal
from orchestrator.config import ServiceSettings
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator
from orchestrator.reply_form import FREE_FORM, ReplyForm
from orchestrator.store import JobRecord, JobState


class Service:
    """Jobs of many tenants over one `Orchestrator`; open it with ``async with``.

    Another tenant's job is as unknown as one that does not exist.

    Args:
        orchestrator: Open, with models and store.
        settings: Limits; those of the orchestrator's settings by default.
    """

    def __init__(self, orchestrator: Orchestrator, *, settings: ServiceSettings | None = None) -> None:
        self.orchestrator = orchestrator
        self.settings = settings or orchestrator.settings.service

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def submit(
        self,
        who: Principal,
        request: JobRequest,
        *,
        idempotency_key: str | None = None,
        form: ReplyForm = FREE_FORM,
        batch: str | None = None,
    ) -> JobRecord:
        """Checks a job, sets its caps aside, and queues it.

        Raises:
            CallerError: There can be no such job; `JobConflict` if the key was sent with another request before,
                `TooManyRequests` if too many jobs wait.
            BudgetExhausted: The caller's account cannot pay for it.
            StoreFailed: It could not be written.
        """
        raise NotImplementedError

    def run_now(self, who: Principal, request: JobRequest, *, form: ReplyForm = FREE_FORM) -> AsyncIterator[Event]:
        """Runs a job in this process and yields its events; the first is ``started``, the last ``result``.

        Leaving the iteration cancels the job at once; what it has cost is booked all the same. When this process dies
        the job is cancelled, not resumed.

        Raises:
            As `submit` does, before the first event. A job that fails says so in its result.
        """
        raise NotImplementedError

    async def record(self, who: Principal, job_id: str) -> JobRecord:
        """One job.

        Raises:
            UnknownName: The caller has no such job.
        """
        raise NotImplementedError

    async def jobs(
        self,
        who: Principal,
        *,
        state: JobState | None = None,
        batch: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[JobRecord]:
        """The caller's jobs, newest first; ``before`` is the id of the last one of the previous page."""
        raise NotImplementedError

    async def cancel(self, who: Principal, job_id: str) -> JobRecord:
        """Ends a job with its best answer so far, wherever it runs; one that is finished stays as it is.

        Raises:
            UnknownName: The caller has no such job.
        """
        raise NotImplementedError

    async def reply(self, who: Principal, job_id: str, text: str) -> JobRecord:
        """Answers a job that waits for a person, and queues it.

        Raises:
            UnknownName: The caller has no such job.
            JobConflict: It does not wait.
        """
        raise NotImplementedError

    async def wait(self, who: Principal, job_id: str, *, timeout_s: float) -> JobRecord:
        """The job when it has ended or waits for a person, at the latest after ``timeout_s``."""
        raise NotImplementedError

    def events(self, who: Principal, job_id: str, *, after: int = -1) -> AsyncIterator[Event]:
        """Journal rows above ``after``, then what happens, until after ``final``.

        Events without `seq` (text as it is generated, spending) are told only while the job runs in this process.
        The iteration also ends, without ``final``, when this service is being closed.

        Raises:
            UnknownName: The caller has no such job.
        """
        raise NotImplementedError
