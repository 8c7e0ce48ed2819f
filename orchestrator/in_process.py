"""The Python SDK: opens models and a store, runs jobs in this process, and hands back results.

.. code-block:: python

    async with Orchestrator(model="qwen2.5-coder-0.5b") as ttc:
        result = await ttc.solve("What is 17 * 23?", budget=Budget(max_output_tokens=2000))
        print(result.text, result.confidence)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.asking import Asking, CheckedJob, VerifierLike, asked_before
from orchestrator.budget import Budget
from orchestrator.clock import Clock, SystemClock
from orchestrator.config import Settings, read_settings
from orchestrator.controller.recorder import Create
from orchestrator.engine import Engine, Message
from orchestrator.equipment import Equipment
from orchestrator.errors import InvalidRequest, JobConflict, LeaseLost, RunFailure, TtcError
from orchestrator.events import Event, IsWatched, Publish
from orchestrator.fleet import Fleet
from orchestrator.fleet_file import FleetFile, read_fleet
from orchestrator.fleet_file.opening import open_fleet_file, recorded_models
from orchestrator.isolation import KillablePool
from orchestrator.job import JobSpec, Result
from orchestrator.journal import Recording
from orchestrator.ledger import Ledger
from orchestrator.lives import Lives
from orchestrator.models import open_fleet
from orchestrator.policy import PolicyFunction, PolicySpec
from orchestrator.reply_form import ReplyForm
from orchestrator.sampling import Sampling
from orchestrator.scoring_guard import guarded
from orchestrator.store import Claimed, JobRecord, JobState, JournalRow, Payment, Store
from orchestrator.stores import new_job_id, new_owner, open_store
from orchestrator.streaming import as_they_end, events_of
from orchestrator.verifier import Candidate, Verifier

_LOG = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 10.0
LEASE_S = 60.0
"""A controller that writes nothing for so long loses its job to whoever asks for it."""
MAX_CRASHES = 20
"""A job that had something in flight when so many controllers died is taken for the cause."""


class Orchestrator:
    """Runs jobs in this process.

    Args:
        model: The small model: a catalogue name, a GGUF file, ``engine:target``, or an engine. None for the
            configured one.
        large: The large model, for policies that escalate.
        roles: Further models by role (``verifier``, ``embedder``, ``draft``, ``target``).
        fleet: A fleet file (see ``docs/howto/fleet.md``) whose models are used instead of configured ones; the models
            above then play their roles in its place, by name if they are of the fleet.
        store: Where jobs are kept: a store, a path, or None for memory only (nothing survives the process).
        tools: Functions that policies may call, by name.
        ledger: A ledger above all jobs (a tenant's); None for no common cap.
        settings: The configuration; None to read it.
        clock: Time.
    """

    def __init__(
        self,
        model: str | Path | Engine | None = None,
        *,
        large: str | Path | Engine | None = None,
        roles: Mapping[str, str | Path | Engine] | None = None,
        fleet: str | Path | FleetFile | None = None,
        store: str | Path | Store | None = None,
        tools: Mapping[str, Callable[..., Any]] | None = None,  # Any: JSON values in and out
        ledger: Ledger | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings or read_settings()
        self._fleet_file = read_fleet(fleet) if isinstance(fleet, str | Path) else fleet
        is_configured = self._fleet_file is None
        wanted: dict[str, str | Path | Engine | None] = {
            "small": model or (self.settings.model if is_configured else None),
            "large": large or (self.settings.large if is_configured else None),
            **(roles or {}),
        }
        self._wanted = {role: value for role, value in wanted.items() if value is not None}
        named = self._wanted if self._fleet_file is None else recorded_models(self._fleet_file, self._wanted)
        self._given_store = store
        self._clock = clock or SystemClock()
        self._owner = new_owner()
        self._fleet: Fleet | None = None
        self._store: Store | None = None
        self._opened: list[Engine] = []
        self._equipment = Equipment()
        self._lives = Lives(
            store=lambda: self.store,
            fleet=lambda: self.fleet,
            equipment=self._equipment,
            tools=dict(tools or {}),
            ledger=ledger,
            clock=self._clock,
        )
        self._asking = Asking(settings=self.settings, wanted=named, fleet=lambda: self.fleet, equipment=self._equipment)

    @classmethod
    def offline(cls, *, store: str | Path | Store, settings: Settings | None = None) -> Self:
        """One that opens a store and no model: to replay jobs, to reply to them, to read them.

        Args:
            store: Where the jobs are.
            settings: The configuration; None to read it.
        """
        orchestrator = cls(store=store, settings=settings)
        orchestrator._wanted.clear()
        return orchestrator

    # -- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            self._store = await open_store(self._given_store)
            if self._fleet_file is not None:
                self._fleet = await open_fleet_file(
                    self._fleet_file, settings=self.settings, opened=self._opened, overrides=self._wanted
                )
            elif self._wanted:
                self._fleet = await open_fleet(self._wanted, settings=self.settings, opened=self._opened)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels what runs, waits for it to end, and closes what was opened here.

        Engines and stores that were passed in stay open.
        """
        self._lives.cancel_all()
        await self._lives.wait_until_over(timeout_s=_CLOSE_TIMEOUT_S)
        for engine in self._opened:
            await engine.aclose()
        self._opened.clear()
        await self._equipment.aclose()
        store, self._store, self._fleet = self._store, None, None
        if store is not None and store is not self._given_store:
            await store.aclose()

    @property
    def fleet(self) -> Fleet:
        """The open models."""
        if self._fleet is None and not self._wanted and self._fleet_file is None:
            raise InvalidRequest("this orchestrator is offline: it has no model", field="model")
        if self._fleet is None:
            raise InvalidRequest("open the orchestrator first: async with Orchestrator(...) as ttc", field="self")
        return self._fleet

    @property
    def store(self) -> Store:
        """The open store."""
        if self._store is None:
            raise InvalidRequest("open the orchestrator first: async with Orchestrator(...) as ttc", field="self")
        return self._store

    @property
    def owner(self) -> str:
        """The name under which it holds jobs in the store."""
        return self._owner

    # -- jobs --------------------------------------------------------------------------------------------------

    async def solve(
        self,
        problem: str,
        *,
        policy: str | PolicySpec | PolicyFunction | None = None,
        params: Mapping[str, Any] | None = None,  # Any: each policy names the types of its own
        budget: Budget | str | None = None,
        verifier: VerifierLike | None = None,
        answer: str = "auto",
        messages: Iterable[Message] | None = None,
        sampling: Sampling | None = None,
        max_sample_tokens: int | None = None,
        seed: int = 0,
        labels: Mapping[str, str] | None = None,
        form: ReplyForm | None = None,
        tenant: str = "",
        key_id: str = "",
        priority: int = 0,
        on_event: Publish | None = None,
    ) -> Result:
        """Solves one problem.

        Cancelling the task that awaits this stops all work at once and leaves the job in the store to be resumed (or
        cancelled, if its policy cannot be imported again); `cancel` ends a job with its best answer so far.

        Args:
            problem: The question or task.
            policy: A name, or a generator function; None for the configured one.
            params: The policy's parameters.
            budget: Caps; a string is read like the command line's ``--budget``.
            verifier: A name, a verifier or a function that scores candidates; the policy must take one.
            answer: How answers are read: auto, boxed, exact, number, choice, code, json, text, or regex:PATTERN.
            messages: The conversation to show to models; by default the problem with an instruction on how to state
                the answer.
            sampling: Overrides the policy's own sampling.
            max_sample_tokens: Most tokens per sample.
            seed: All randomness derives from it.
            labels: Kept with the job.
            form: Demands on replies: stop strings, a schema, tools.
            tenant: Whose job it is; its cached prefixes are shared with no other tenant's.
            key_id: The API key that pays for it.
            priority: Noted in the record, for queues.
            on_event: Called with every event; must not block.

        Raises:
            CallerError: The request cannot be carried out; nothing was spent.
            RunFailure: The job failed; its record in the store tells what was spent.
        """
        asked = self.check(
            problem,
            policy=policy,
            params=params,
            budget=budget,
            verifier=verifier,
            answer=answer,
            messages=messages,
            sampling=sampling,
            max_sample_tokens=max_sample_tokens,
            seed=seed,
            labels=labels,
            form=form,
            cache_salt=tenant,
        )
        record = self.new_record(asked, tenant=tenant, key_id=key_id, priority=priority)
        result = await self.run_new(asked, record, on_event=on_event)
        return result.raise_for_error()

    def check(self, problem: str, **options: Any) -> CheckedJob:  # Any: as for `solve`
        """The job that the arguments of `solve` describe (as far as they are in `JobSpec`); nothing is stored or spent.

        Raises:
            CallerError: There can be no such job; the error names the argument.
        """
        return self._asking.checked(problem, **options)

    def new_record(self, asked: CheckedJob, **fields: Any) -> JobRecord:  # Any: those of `JobRecord`
        """The record of a new job that this process may run, not stored yet."""
        now = self._clock.time()
        return JobRecord(
            id=new_job_id(), spec=asked.spec.to_json(), created_at=now, updated_at=now, owner=self._owner, **fields
        )

    async def run_new(
        self,
        asked: CheckedJob,
        record: JobRecord,
        *,
        payment: Payment | None = None,
        on_event: Publish | None = None,
        is_watched: IsWatched | None = None,
        lease_s: float = LEASE_S,
        is_stored_first: bool = True,
    ) -> Result:
        """Stores a new job and runs it here, without its ever being queued; its failure is in the result.

        Args:
            asked: The job.
            record: Made by `new_record`.
            payment: What is set aside for it.
            on_event: Called with every event; must not block.
            is_watched: Whether it is to be told what is not durable, too; by default it is.
            lease_s: It is lost to others when nothing was written for so long.
            is_stored_first: Whether it begins when it is stored; otherwise it is stored while it runs, or, if it is
                quick, in one write with its end. Only a bound job whose payment has no caps may begin before.

        Raises:
            JobConflict, BudgetExhausted, StoreFailed: It could not be stored; see `Jobs.create`. One that has begun
                has failed of it, which its result says.
        """
        create: Create | None = None
        is_capped = payment is not None and payment.is_capped
        if is_stored_first or is_capped or not asked.spec.is_bound:
            await self.store.create(record, lease_s=lease_s, payment=payment)
        else:
            create = lambda first: self.store.create(record, lease_s=lease_s, payment=payment, first=first)  # noqa: E731  # one expression
        return await self._lives.run(
            record.id, asked, epoch=1, on_event=on_event, is_watched=is_watched, due_at=record.due_at, create=create
        )

    async def run_claimed(
        self,
        claimed: Claimed,
        *,
        on_event: Publish | None = None,
        is_watched: IsWatched | None = None,
        error: TtcError | None = None,
    ) -> Result:
        """Runs a job that was taken from the queue, or ends it if it is not to be run; its failure is in the result.

        A job whose cancellation was asked for, or that nobody but its own process could run, ends as cancelled; one
        that cannot be opened here, or whose controllers died of it again and again, as failed.

        Args:
            claimed: The job.
            on_event: Called with every event; must not block.
            is_watched: Whether it is to be told what is not durable, too; by default it is.
            error: Why it is to be failed instead.

        Raises:
            StoreFailed, LeaseLost: Its journal could not be read, or its end not written.
        """
        record, epoch = claimed
        spec = JobSpec.from_json(record.spec)
        rows = await self._rows(claimed) if epoch > 1 or error is not None else []
        end = partial(self._lives.end, record.id, spec, epoch=epoch, rows=rows, on_event=on_event)
        if error is not None:
            return await end(error=error)
        if record.is_cancel_wanted or not spec.is_resumable:
            return await end()
        num_crashes = sum(row.kind == "lost" for row in rows)
        if num_crashes > MAX_CRASHES:
            return await end(error=RunFailure(f"{num_crashes} controllers died while they ran this job"))
        try:
            asked = asked_before(record.id, spec)
        except TtcError as refused:
            return await end(error=refused)
        except Exception as failure:  # noqa: BLE001  # a module of somebody else that cannot be imported
            _LOG.exception("a job cannot be opened", extra={"job_id": record.id})
            return await end(error=RunFailure(f"the job cannot be opened: {failure!r}"))
        return await self._lives.run(
            record.id, asked, epoch=epoch, rows=rows, on_event=on_event, is_watched=is_watched, due_at=record.due_at
        )

    async def _rows(self, claimed: Claimed) -> list[JournalRow]:
        """The journal of a claimed job, which goes back to the queue if nobody waits for it any more."""
        record, epoch = claimed
        try:
            return await self.store.read(record.id)
        except asyncio.CancelledError:
            with suppress(TtcError):  # else its lease runs out
                await self.store.append(record.id, epoch, [], state=JobState.QUEUED)
            raise

    def stream(self, problem: str, **options: Any) -> AsyncIterator[Event]:  # Any: as for `solve`
        """Solves one problem and yields its events; the last one is ``result``. Options as for `solve`.

        Leaving the iteration early cancels the job.
        """
        return events_of(lambda publish: self.solve(problem, **options, on_event=publish), cancel=self.cancel)

    def solve_many(
        self,
        problems: Iterable[str],
        *,
        concurrency: int = 8,
        **options: Any,  # Any: as for `solve`
    ) -> AsyncIterator[tuple[int, Result | TtcError]]:
        """Solves many problems at once and yields (index, result or error) as they are done. Options as for `solve`."""
        return as_they_end(lambda problem: self.solve(problem, **options), problems, concurrency=concurrency)

    async def resume(self, job_id: str, *, on_event: Publish | None = None, force: bool = False) -> Result:
        """Goes on with a job whose process died, or that waited for a person; nothing journaled is bought again.

        Raises:
            UnknownName: There is no such job.
            JobConflict: It is finished, or another process works on it (``force`` takes it all the same).
        """
        record = await self.store.get(job_id)
        spec = JobSpec.from_json(record.spec)
        if record.state.is_terminal:
            raise JobConflict(f"job {job_id!r} is {record.state.value}; there is nothing to resume", job_id=job_id)
        asked = asked_before(job_id, spec)
        epoch = await self.store.claim(job_id, self._owner, lease_s=LEASE_S, force=force)
        rows = await self.store.read(job_id)
        result = await self._lives.run(job_id, asked, epoch=epoch, rows=rows, on_event=on_event, due_at=record.due_at)
        return result.raise_for_error()

    async def replay(self, job_id: str, *, on_event: Publish | None = None) -> Result:
        """Runs a job again from its journal alone: no model is asked, nothing is spent or written.

        Raises:
            UnknownName: There is no such job.
            ReplayDiverged: The policy now asks for something else than it did.
        """
        record = await self.store.get(job_id)
        spec = JobSpec.from_json(record.spec)
        asked = asked_before(job_id, spec)
        rows = await self.store.read(job_id)
        return await self._lives.replay(job_id, asked, epoch=record.epoch, rows=rows, on_event=on_event)

    async def reply(self, job_id: str, text: str) -> None:
        """Answers a job that waits for a person; `resume` lets it go on.

        Raises:
            JobConflict: It does not wait.
        """
        record = await self.store.get(job_id)
        if record.state is not JobState.WAITING:
            raise JobConflict(f"job {job_id!r} is {record.state.value}, not waiting for a person", job_id=job_id)
        epoch = await self.store.claim(job_id, new_owner(), lease_s=LEASE_S)  # a runner here is somebody else
        if epoch != record.epoch + 1:
            await self.store.append(job_id, epoch, [], state=JobState.QUEUED)
            raise JobConflict(f"job {job_id!r} was given another reply at this moment", job_id=job_id)
        recording = Recording(await self.store.read(job_id))
        position = max(recording.actions)
        data = {
            "a": position,
            "action": recording.actions[position].action,
            "outcome": {"reply": text},
            "t": recording.elapsed_s,
        }
        row = JournalRow(recording.next_seq, "done", data)
        await self.store.append(job_id, epoch, [row], state=JobState.QUEUED)

    def register_verifier(self, name: str, verifier: Verifier | Callable[[Candidate], Any]) -> None:
        """Makes a verifier available to policies under a name. Any: see `VerifierLike`."""
        self._equipment.add_verifier(name, guarded(verifier))

    @property
    def running(self) -> Collection[str]:
        """Ids of the jobs that run here now."""
        return self._lives.running

    @property
    def pool(self) -> KillablePool:
        """Processes for work that may have to be killed; closed with this."""
        return self._equipment.pool()

    def cancel(self, job_id: str) -> bool:
        """Ends a job that runs here, with its best answer so far; False if none of that id does."""
        return self._lives.cancel(job_id)

    def cancel_all(self) -> None:
        """Ends every job that runs here."""
        self._lives.cancel_all()

    def lose(self, job_id: str, error: LeaseLost) -> None:
        """Stops the work on a job that another controller has now; nothing more is written."""
        self._lives.lose(job_id, error)


def solve_sync(
    problem: str,
    *,
    model: str | Path | Engine | None = None,
    large: str | Path | Engine | None = None,
    store: str | Path | Store | None = None,
    **options: Any,  # Any: as for `Orchestrator.solve`
) -> Result:
    """`Orchestrator.solve` for code without an event loop; opens and closes the models each time.

    Raises:
        InvalidRequest: It is called from a running event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise InvalidRequest("solve_sync cannot run inside an event loop; await Orchestrator.solve there", field="self")

    async def work() -> Result:
        async with Orchestrator(model, large=large, store=store) as orchestrator:
            return await orchestrator.solve(problem, **options)

    return asyncio.run(work())
