"""Random life stories of jobs in a store, compared step by step with a dictionary: the property test of any store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.errors import JobConflict, LeaseLost, UnknownName
from orchestrator.store import JobRecord, JobState, JournalRow, Store
from orchestrator.stores.leases import new_owner

_T = TypeVar("_T")

_IDS = ("a", "b", "c")
_OWNERS = tuple(new_owner() for _ in range(2))
_STATES = st.none() | st.sampled_from(JobState)


@dataclass(slots=True)
class _Expected:
    state: JobState = JobState.QUEUED
    epoch: int = 0
    owner: str | None = None
    is_held: bool = False
    kinds: list[str] = field(default_factory=list)
    result: dict[str, int] | None = None


class StoreMachine(RuleBasedStateMachine):
    """Three jobs, two owners, and every method with right and wrong arguments.

    Subclass it with `open_store`, and give its ``TestCase`` to pytest.
    """

    open_store: ClassVar[Callable[[], Awaitable[Store]]]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._store = self._runner.run(_opened(type(self).open_store))
        self._expected: dict[str, _Expected] = {}

    def teardown(self) -> None:
        """The store is whole at the end of every story."""
        with self._runner:
            try:
                self._store.check_integrity()
            finally:
                self._runner.run(self._store.aclose())

    @rule(job_id=st.sampled_from(_IDS))
    def create(self, job_id: str) -> None:
        """A new job, or a conflict."""
        refusal = JobConflict if job_id in self._expected else None
        self._attempt(self._store.create(JobRecord(id=job_id)), refusal)
        self._expected.setdefault(job_id, _Expected())

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
            job.epoch += 1
            job.owner, job.is_held, job.state = owner, True, JobState.RUNNING

    @rule(
        job_id=st.sampled_from(_IDS),
        late_by=st.sampled_from((0, 0, 0, 1, -1)),
        offset=st.sampled_from((0, 0, 0, 1, -1)),
        count=st.integers(0, 3),
        state=_STATES,
        result=st.none() | st.just({"n": 1}),
    )
    def append(  # noqa: PLR0917  # hypothesis passes names
        self,
        job_id: str,
        late_by: int,
        offset: int,
        count: int,
        state: JobState | None,
        result: dict[str, int] | None,
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

    @precondition(lambda self: self._expected)
    @rule(job_id=st.sampled_from(_IDS))
    def delete(self, job_id: str) -> None:
        """Gone, if it was there."""
        self._attempt(self._store.delete(job_id), None)
        self._expected.pop(job_id, None)

    @rule(job_id=st.sampled_from(_IDS), after=st.integers(-2, 12))
    def read(self, job_id: str, after: int) -> None:
        """The rest of a journal."""
        job = self._expected.get(job_id, _Expected())
        found = self._runner.run(_opened(lambda: self._store.read(job_id, after=after)))
        expected = [(seq, kind) for seq, kind in enumerate(job.kinds) if seq > after]
        assert [(row.seq, row.kind) for row in found] == expected

    @invariant()
    def records_agree(self) -> None:
        """Every record says what happened to the job."""
        found = self._runner.run(_opened(self._store.list_jobs))
        assert [record.id for record in found] == sorted(self._expected, reverse=True)
        for record in found:
            job = self._expected[record.id]
            assert (record.state, record.epoch, record.owner) == (job.state, job.epoch, job.owner)
            assert record.result == job.result

    def _attempt(self, done: Awaitable[object], refusal: type[Exception] | None) -> None:
        caught: type[Exception] | None = None
        try:
            self._runner.run(_opened(lambda: done))
        except (JobConflict, LeaseLost, UnknownName) as error:
            caught = type(error)
        assert caught is refusal, f"expected {refusal}, got {caught}"


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


async def _opened(make: Callable[[], Awaitable[_T]]) -> _T:
    return await make()
