"""Random life stories of jobs in a store, compared step by step with a dictionary: the property test of any store."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.budget import NOTHING, Amount
from orchestrator.errors import BudgetExhausted, JobConflict, LeaseLost, UnknownName
from orchestrator.store import Claimed, JobRecord, JobState, JournalRow, Payment, Store
from orchestrator.stores.leases import new_owner
from orchestrator.usage import Usage

_T = TypeVar("_T")

_IDS = ("a", "b", "c", "d")
_OWNERS = tuple(new_owner() for _ in range(2))
_TENANTS = ("t", "u")
_STATES = st.none() | st.sampled_from(JobState)
_CAPS = {"day": Amount(output_tokens=100), "total": None}
_COST = Usage(output_tokens=7, model_calls=1, picodollars=10**17 + 1)


@dataclass(slots=True)
class _Expected:
    tenant: str = ""
    priority: int = 0
    due_at: float | None = None
    state: JobState = JobState.QUEUED
    epoch: int = 0
    owner: str | None = None
    is_held: bool = False
    is_cancel_wanted: bool = False
    kinds: list[str] = field(default_factory=list)
    result: dict[str, object] | None = None
    aside: Amount = NOTHING


class StoreMachine(RuleBasedStateMachine):
    """Four jobs of two tenants who pay for them, two owners, and every method with right and wrong arguments.

    Subclass it with `open_store`, and give its ``TestCase`` to pytest.
    """

    open_store: ClassVar[Callable[[], Awaitable[Store]]]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._store = self._runner.run(_opened(type(self).open_store))
        self._expected: dict[str, _Expected] = {}
        self._spent = dict.fromkeys(_TENANTS, NOTHING)

    def teardown(self) -> None:
        """The store is whole at the end of every story."""
        with self._runner:
            try:
                self._store.check_integrity()
            finally:
                self._runner.run(self._store.aclose())

    @rule(
        job_id=st.sampled_from(_IDS),
        tenant=st.sampled_from(_TENANTS),
        priority=st.integers(0, 1),
        due_at=st.sampled_from((None, None, 1.5, 2.5)),
        aside=st.sampled_from((0, 30, 60)),
        owner=st.sampled_from((None, None, *_OWNERS)),
    )
    def create(  # noqa: PLR0917  # hypothesis passes names
        self, job_id: str, tenant: str, priority: int, due_at: float | None, aside: int, owner: str | None
    ) -> None:
        """A new job, paid for or not, held or queued; a conflict; or one that cannot be paid for."""
        amount = Amount(output_tokens=aside)
        refusal: type[Exception] | None = None
        if job_id in self._expected:
            refusal = JobConflict
        elif aside > self._left(tenant):
            refusal = BudgetExhausted
        record = JobRecord(id=job_id, tenant=tenant, priority=priority, due_at=due_at, owner=owner)
        payment = Payment(tenant, amount, _CAPS) if aside else None
        self._attempt(self._store.create(record, lease_s=600 if owner else None, payment=payment), refusal)
        if refusal is None:
            job = _Expected(tenant=tenant, priority=priority, due_at=due_at, owner=owner, aside=amount)
            if owner is not None:
                job.state, job.epoch, job.is_held = JobState.RUNNING, 1, True
            self._expected[job_id] = job

    @rule(job_id=st.sampled_from(_IDS), owner=st.sampled_from(_OWNERS), force=st.booleans())
    def claim(self, job_id: str, owner: str, force: bool) -> None:
        """A claim, allowed or not."""
        job = self._expected.get(job_id)
        refusal: type[Exception] | None = None
        if job is None:
            refusal = UnknownName
        elif job.state.is_terminal or (job.is_held and job.owner != owner and not force):
            refusal = JobConflict
        self._attempt(self._store.claim(job_id, owner, lease_s=600, force=force), refusal)
        if job is not None and refusal is None:
            _give(job, owner)

    @rule(owner=st.sampled_from(_OWNERS), most=st.sampled_from((None, None, 1, 2)))
    def take(self, owner: str, most: int | None) -> None:
        """What is next, or nothing."""
        num_running = Counter(job.tenant for job in self._expected.values() if job.state is JobState.RUNNING)
        waiting = [
            (-job.priority, math.inf if job.due_at is None else job.due_at, job_id)
            for job_id, job in self._expected.items()
            if job.state is JobState.QUEUED and (most is None or num_running[job.tenant] < most)
        ]
        claimed = self._do(self._store.take(owner, lease_s=600, most_per_tenant=most))
        if not waiting:
            assert claimed is None
            return
        job_id = min(waiting)[2]
        _give(self._expected[job_id], owner)
        assert claimed == Claimed(self._do(self._store.get(job_id)), self._expected[job_id].epoch)

    @rule(
        job_id=st.sampled_from(_IDS),
        late_by=st.sampled_from((0, 0, 0, 1, -1)),
        offset=st.sampled_from((0, 0, 0, 1, -1)),
        count=st.integers(0, 3),
        state=_STATES,
        result=st.none() | st.just({"n": 1}) | st.just({"usage": _COST.to_json()}),
    )
    def append(  # noqa: PLR0917  # hypothesis passes names
        self,
        job_id: str,
        late_by: int,
        offset: int,
        count: int,
        state: JobState | None,
        result: dict[str, object] | None,
    ) -> None:
        """Rows with the right or another epoch, at the right or another place."""
        job = self._expected.get(job_id)
        epoch, next_seq = (job.epoch, len(job.kinds)) if job else (1, 0)
        batch = [JournalRow(next_seq + offset + place, f"{next_seq}.{place}", {}) for place in range(count)]
        is_allowed = epoch - late_by > 0 and job is not None and late_by == 0 and (offset == 0 or not batch)
        written = self._store.append(job_id, epoch - late_by, batch, state=state, result=result)
        self._attempt(written, None if is_allowed else LeaseLost)
        if job is not None and is_allowed:
            job.kinds += [row.kind for row in batch]
            job.state, job.result = state or job.state, result or job.result
            job.is_held = job.state is JobState.RUNNING
            if job.state.is_terminal:
                self._settle(job, _COST.amount if job.result and "usage" in job.result else NOTHING)

    @precondition(lambda self: self._expected)
    @rule(job_id=st.sampled_from(_IDS))
    def delete(self, job_id: str) -> None:
        """Gone, if it was there."""
        self._attempt(self._store.delete(job_id), None)
        self._expected.pop(job_id, None)

    @rule(job_id=st.sampled_from(_IDS))
    def ask_to_cancel(self, job_id: str) -> None:
        """A mark on an unfinished job."""
        job = self._expected.get(job_id)
        self._attempt(self._store.ask_to_cancel(job_id), UnknownName if job is None else None)
        if job is not None and not job.state.is_terminal:
            job.is_cancel_wanted = True

    @rule(job_id=st.sampled_from(_IDS), wanted=st.sampled_from((10, 50, 90)), partly=st.booleans())
    def set_aside(self, job_id: str, wanted: int, partly: bool) -> None:
        """More or less than before for a job that has not ended."""
        job = self._expected.get(job_id)
        if job is None or job.state.is_terminal:
            return
        left = self._left(job.tenant) + job.aside.output_tokens
        granted = min(wanted, left) if partly else wanted
        refusal = BudgetExhausted if granted > left or granted <= 0 else None
        setting = self._store.set_aside(
            job.tenant, job_id, Amount(output_tokens=wanted, model_calls=2), caps=_CAPS, partly=partly
        )
        self._attempt(setting, refusal)
        if refusal is None:
            job.aside = Amount(output_tokens=granted, model_calls=2)

    @rule(job_id=st.sampled_from(_IDS), tokens=st.integers(0, 20))
    def settle(self, job_id: str, tokens: int) -> None:
        """Once; nothing for jobs for which nothing is set aside."""
        self._attempt(self._store.settle(job_id, Amount(output_tokens=tokens)), None)
        if (job := self._expected.get(job_id)) is not None:
            self._settle(job, Amount(output_tokens=tokens))

    @rule(job_id=st.sampled_from(_IDS), after=st.integers(-2, 12))
    def read(self, job_id: str, after: int) -> None:
        """The rest of a journal."""
        job = self._expected.get(job_id, _Expected())
        found = self._do(self._store.read(job_id, after=after))
        expected = [(seq, kind) for seq, kind in enumerate(job.kinds) if seq > after]
        assert [(row.seq, row.kind) for row in found] == expected

    @invariant()
    def records_agree(self) -> None:
        """Every record says what happened to the job, and every count how many it happened to."""
        found = self._do(self._store.list_jobs())
        assert [record.id for record in found] == sorted(self._expected, reverse=True)
        for record in found:
            job = self._expected[record.id]
            assert (record.state, record.epoch, record.owner) == (job.state, job.epoch, job.owner)
            assert (record.result, record.is_cancel_wanted) == (job.result, job.is_cancel_wanted)
        for tenant in _TENANTS:
            states = Counter(job.state for job in self._expected.values() if job.tenant == tenant)
            assert self._do(self._store.count_jobs(tenant=tenant)) == states

    @invariant()
    def books_agree(self) -> None:
        """What is set aside is so for the jobs that are there, and no cap is exceeded before the work is done."""
        for tenant in _TENANTS:
            aside = sum((job.aside for job in self._expected.values() if job.tenant == tenant), NOTHING)
            for period in _CAPS:
                assert self._do(self._store.spent(tenant, period)) == (self._spent[tenant], aside)

    def _left(self, tenant: str) -> int:
        aside = sum(job.aside.output_tokens for job in self._expected.values() if job.tenant == tenant)
        return 100 - self._spent[tenant].output_tokens - aside

    def _settle(self, job: _Expected, cost: Amount) -> None:
        if job.aside != NOTHING:
            self._spent[job.tenant] += cost
            job.aside = NOTHING

    def _do(self, done: Awaitable[_T]) -> _T:
        return self._runner.run(_opened(lambda: done))

    def _attempt(self, done: Awaitable[object], refusal: type[Exception] | None) -> None:
        caught: type[Exception] | None = None
        try:
            self._do(done)
        except (BudgetExhausted, JobConflict, LeaseLost, UnknownName) as error:
            caught = type(error)
        assert caught is refusal, f"expected {refusal}, got {caught}"


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def _give(job: _Expected, owner: str) -> None:
    job.epoch += 1
    job.owner, job.is_held, job.state = owner, True, JobState.RUNNING


async def _opened(make: Callable[[], Awaitable[_T]]) -> _T:
    return await make()
