"""What the endpoints call: takes jobs in, answers questions about them, runs chats here; there is no HTTP in it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from orchestrator.api.service.chats import Chats
from orchestrator.api.service.following import Followers
from orchestrator.api.service.live import LiveEvents
from orchestrator.api.service.observing.context import trace_labels
from orchestrator.api.service.readiness import Readiness
from orchestrator.api.service.requests import JobRequest
from orchestrator.api.service.retention import keep_forgetting
from orchestrator.api.service.security.payments import priced
from orchestrator.api.service.security.principal import Principal
from orchestrator.api.service.security.wishes import check_wishes
from orchestrator.asking import CheckedJob
from orchestrator.budget import UNLIMITED, Budget
from orchestrator.config import ServiceSettings
from orchestrator.errors import BudgetExhausted, JobConflict, ServiceStopping, TooManyRequests, UnknownName
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator
from orchestrator.reply_form import FREE_FORM, ReplyForm
from orchestrator.runner import Observer, Runner
from orchestrator.store import Claimed, JobRecord, JobState, Payment
from orchestrator.stores import new_owner

_LOG = logging.getLogger(__name__)

_MAX_PRICINGS = 4
"""A job that takes all that is left of a key's budget is priced again so often when others were faster."""
_END_S = 5.0
"""A job that was told to end here is waited for so long."""
_DAY_S = 86_400.0
"""What does not answer so soon is not ready."""


class Accepted(NamedTuple):
    """A job that may be created: what it is, and what is to be set aside for it."""

    asked: CheckedJob
    payment: Payment


class Service:
    """Jobs of many tenants over one `Orchestrator`; open it with ``async with``, which also runs queued jobs here.

    Another tenant's job is as unknown as one that does not exist.

    Args:
        orchestrator: Open, with models and store; whoever opened it closes it.
        settings: Limits; those of the orchestrator's settings by default.
        observers: Told what jobs of this process do.
        lease_s: See `Runner`; by default that of the settings.
    """

    def __init__(
        self,
        orchestrator: Orchestrator,
        *,
        settings: ServiceSettings | None = None,
        observers: Sequence[Observer] = (),
        lease_s: float | None = None,
    ) -> None:
        self.orchestrator = orchestrator
        self.settings = settings or orchestrator.settings.service
        self._lease_s = self.settings.lease_s if lease_s is None else lease_s
        live = LiveEvents()
        self.runner = Runner(
            orchestrator,
            concurrency=self.settings.concurrency,
            most_per_tenant=self.settings.max_running_per_tenant,
            observers=[live, *observers],
            is_followed=live.is_followed,
            lease_s=self._lease_s,
        )
        self.chats = Chats(
            orchestrator,
            self.runner,
            concurrency=self.settings.chat_concurrency,
            max_waiting=self.settings.max_chat_waiting,
        )
        self._followers = Followers(orchestrator, live)
        self._readiness = Readiness(orchestrator)
        self._group = asyncio.TaskGroup()
        self._is_stopping = False
        self._is_drained = False
        self._forgetting: asyncio.Task[None] | None = None

    # -- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self.chats.open(self._group)
        self._group.create_task(self.runner.run())
        if (days := self.settings.keep_days) is not None:
            store = self.orchestrator.store
            self._forgetting = self._group.create_task(keep_forgetting(store, keep_s=days * _DAY_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_drained:
            await self.drain(0.0)
        if self._forgetting is not None:
            self._forgetting.cancel()
        await self._group.__aexit__(None, None, None)  # what went wrong in the context is not the group's

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._is_stopping

    async def drain(self, grace_s: float | None = None) -> None:
        """Takes nothing new and ends event streams; what runs may go on for ``grace_s`` seconds (by the settings).

        After that queued jobs go back to the queue, and chats end with their best answers so far.
        """
        grace_s = self.settings.grace_s if grace_s is None else grace_s
        self._is_stopping = True
        self._followers.close()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.chats.drain(grace_s))
            tasks.create_task(self.runner.drain(grace_s))
        self._is_drained = True

    # -- taking jobs in ----------------------------------------------------------------------------------------

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
            ServiceStopping: Another process may take it.
        """
        store, digest = self.orchestrator.store, _digest(request, form, batch)
        self._check_running()
        if idempotency_key is not None:
            found = await store.find(tenant=who.tenant, idempotency_key=idempotency_key)
            if found is not None:
                return _known(found, digest, idempotency_key)
        await self.check_room(who)
        for attempt in range(_MAX_PRICINGS):
            asked, payment = await self._accepted(who, request, form)
            asked = asked._replace(spec=replace(asked.spec, request_digest=digest))
            record = self._record(who, request, asked, batch=batch, idempotency_key=idempotency_key)
            record = replace(record, owner=None)
            try:
                await store.create(record, payment=payment)
                return record
            except JobConflict as conflict:
                if idempotency_key is None:
                    raise
                job_id: str = conflict.fields()["job_id"]  # type: ignore[assignment]  # as `Jobs.create` says
                return _known(await store.get(job_id), digest, idempotency_key)
            except BudgetExhausted:
                if asked.spec.budget == self.wanted_budget(who, request) or attempt == _MAX_PRICINGS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def run_now(
        self,
        who: Principal,
        request: JobRequest,
        *,
        form: ReplyForm = FREE_FORM,
        kinds: Collection[str] | None = None,
    ) -> AsyncIterator[Event]:
        """Runs a job in this process and yields its events; the first is ``started``, the last ``result``.

        With ``kinds`` only those of these kinds are yielded, and the last.

        Leaving the iteration cancels the job at once; what it has cost is booked all the same. When this process dies
        the job is cancelled, not resumed.

        Raises:
            As `submit` does, before the first event. A job that fails says so in its result.
        """
        self._check_running()
        asked, payment = await self._accepted(who, request, form)
        asked = asked._replace(spec=replace(asked.spec, is_bound=True))
        record = self._record(who, request, asked)
        running = self.chats.run(asked, record, payment, most_of_tenant=who.limits.max_running, kinds=kinds)
        async with aclosing(running) as events:  # type: ignore[type-var]  # it is a generator
            async for event in events:
                yield event

    def wanted_budget(self, who: Principal, request: JobRequest) -> Budget:
        """The caps that a job asks for, by default the service's, lowered to what its key allows each.

        Raises:
            InvalidRequest: They cannot be read.
        """
        given = request.caps()
        budget = Budget.parse(given) if isinstance(given, str) else given or UNLIMITED
        default = self.settings.default_budget
        if default is not None and not budget.caps():
            budget = Budget.from_json(Budget.parse(default).to_json() | budget.to_json())
        return who.limits.lowered(budget)

    async def _accepted(self, who: Principal, request: JobRequest, form: ReplyForm) -> Accepted:
        budget = self.wanted_budget(who, request)
        asked = self._checked(who, request, form, budget)
        payable, payment = await priced(self.orchestrator.store, who, budget, now=time.time())
        if payable != budget:
            asked = self._checked(who, request, form, payable)
        return Accepted(asked, payment)

    def _checked(self, who: Principal, request: JobRequest, form: ReplyForm, budget: Budget) -> CheckedJob:
        turns = request.messages
        allows_patterns = self.settings.allows_patterns
        check_wishes(policy=request.policy, answer=request.answer, allows_patterns=allows_patterns)
        return self.orchestrator.check(
            request.text(),
            policy=request.policy,
            params=request.params,
            budget=budget,
            verifier=request.verifier,
            answer=request.answer,
            messages=None if turns is None else [turn.message() for turn in turns],
            sampling=None if request.sampling is None else request.sampling.sampling(),
            max_sample_tokens=request.max_sample_tokens,
            seed=request.seed,
            labels=trace_labels() | request.labels,
            form=form,
            cache_salt=who.cache_salt,
        )

    def _record(self, who: Principal, request: JobRequest, asked: CheckedJob, **fields: Any) -> JobRecord:
        due_at = None if request.deadline_s is None else time.time() + request.deadline_s
        return self.orchestrator.new_record(
            asked, tenant=who.tenant, key_id=who.key_id, priority=request.priority, due_at=due_at, **fields
        )

    def _check_running(self) -> None:
        if self._is_stopping:
            raise ServiceStopping("the service is being stopped; send the request again")

    async def check_room(self, who: Principal, num_jobs: int = 1) -> None:
        """Whether so many jobs may be queued.

        Raises:
            TooManyRequests: Too many wait already.
        """
        store, settings = self.orchestrator.store, self.settings
        limits = [limit for limit in (settings.max_waiting_per_tenant, who.limits.max_waiting) if limit is not None]
        for most, tenant, whose in ((settings.max_waiting, None, ""), (min(limits, default=None), who.tenant, "your ")):
            if most is None:
                continue
            num_waiting = (await store.count_jobs(tenant=tenant)).get(JobState.QUEUED, 0)
            if num_waiting + num_jobs > most:
                per_process = max(1, settings.concurrency)
                raise TooManyRequests(
                    f"{num_waiting} of {whose}jobs wait already, and {most} may; send it again later",
                    retry_after_s=min(60.0, max(1.0, self.runner.mean_run_s * num_waiting / per_process)),
                )

    # -- jobs that are there -----------------------------------------------------------------------------------

    async def record(self, who: Principal, job_id: str) -> JobRecord:
        """One job.

        Raises:
            UnknownName: The caller has no such job.
        """
        try:
            record = await self.orchestrator.store.get(job_id)
        except UnknownName:
            record = None
        if record is None or record.tenant != who.tenant:
            raise UnknownName(kind="job", name=job_id, known=())
        return record

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
        return await self.orchestrator.store.list_jobs(
            state=state, tenant=who.tenant, batch=batch, limit=limit, before=before
        )

    async def cancel(self, who: Principal, job_id: str) -> JobRecord:
        """Ends a job with its best answer so far, wherever it runs; one that is finished stays as it is.

        Returns:
            The job; one that runs elsewhere may not have ended yet.

        Raises:
            UnknownName: The caller has no such job.
        """
        store = self.orchestrator.store
        await self.record(who, job_id)
        is_here = self.orchestrator.cancel(job_id)
        record = await store.ask_to_cancel(job_id)
        if is_here:
            return await self._followers.until_settled(job_id, timeout_s=_END_S)
        if record.state not in {JobState.QUEUED, JobState.WAITING}:
            return record
        try:
            epoch = await store.claim(job_id, new_owner(), lease_s=self._lease_s)  # the runner here is somebody else
        except JobConflict:  # somebody takes it at this moment, and will see that it is to end
            return await store.get(job_id)
        with self.runner.holding(job_id, epoch):
            claimed = Claimed(replace(record, epoch=epoch, is_cancel_wanted=True), epoch)
            await self.orchestrator.run_claimed(claimed, on_event=self.runner.watcher_of(record))
        return await store.get(job_id)

    async def reply(self, who: Principal, job_id: str, text: str) -> JobRecord:
        """Answers a job that waits for a person, and queues it.

        Raises:
            UnknownName: The caller has no such job.
            JobConflict: It does not wait.
        """
        await self.record(who, job_id)
        await self.orchestrator.reply(job_id, text)
        return await self.orchestrator.store.get(job_id)

    async def wait(self, who: Principal, job_id: str, *, timeout_s: float) -> JobRecord:
        """The job when it has ended or waits for a person, at the latest after ``timeout_s``."""
        record = await self.record(who, job_id)
        if timeout_s <= 0:
            return record
        return await self._followers.until_settled(job_id, timeout_s=min(timeout_s, self.settings.max_wait_s))

    async def events(self, who: Principal, job_id: str, *, after: int = -1) -> AsyncIterator[Event]:
        """Journal rows above ``after``, then what happens, until after ``final``.

        Events without `seq` (text as it is generated, spending) are told only while the job runs in this process;
        a silence is broken by ``heartbeat`` events. The iteration also ends, without ``final``, when this service is
        being stopped.

        Raises:
            UnknownName: The caller has no such job.
        """
        await self.record(who, job_id)
        following = self._followers.follow(job_id, after=after, heartbeat_s=self.settings.heartbeat_s)
        async with aclosing(following) as events:  # type: ignore[type-var]  # it is a generator
            async for event in events:
                yield event

    # -- how it is ---------------------------------------------------------------------------------------------

    async def problems(self) -> list[str]:
        """Why requests sent now would not be served; empty if they would be."""
        if self._is_stopping:
            return ["the service is being stopped"]
        return await self._readiness.problems()


def _digest(request: JobRequest, form: ReplyForm, batch: str | None) -> str:
    text = f"{request.model_dump_json(exclude_unset=True)}{form.to_json()}{batch}"
    return hashlib.sha256(text.encode()).hexdigest()


def _known(record: JobRecord, digest: str, idempotency_key: str) -> JobRecord:
    if record.spec.get("request_digest") != digest:
        raise JobConflict(
            f"the idempotency key {idempotency_key!r} was sent with another request before, which became job "
            f"{record.id!r}; send a new key with a new request",
            job_id=record.id,
        )
    return record
