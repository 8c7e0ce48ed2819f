"""Jobs on a Redis server: any number of processes on any number of machines may share it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from typing import Any, Self

from orchestrator.errors import StoreFailed
from orchestrator.store import Change, Claimed, JobRecord, JobState, JournalRow, Payment
from orchestrator.stores.books import cost_in
from orchestrator.stores.leases import check_claim, is_dead
from orchestrator.stores.redis.accounts import RedisAccounts, RedisDocuments, exhausted, payment_arguments
from orchestrator.stores.redis.address import RedisAddress
from orchestrator.stores.redis.calls import PATIENCE_S, Calls
from orchestrator.stores.redis.integrity import check_integrity
from orchestrator.stores.redis.keys import Keys, upper_bound
from orchestrator.stores.redis.opening import check_server
from orchestrator.stores.redis.records import amount_text, decoded_record, decoded_rows, pairs, record_fields, row_texts
from orchestrator.stores.redis.waiting import Waiting
from orchestrator.stores.rows import encoded, job_exists, lease_lost, unknown_job

_OWNERS_S = 1.0
"""How often it is looked whether owners on this host are alive while there are jobs to take."""


class RedisStore(RedisAccounts, RedisDocuments):
    """Implements `Store`; open it with `RedisStore.open`, in the event loop that uses it.

    What was acknowledged survives what the server's settings say it survives: with ``appendonly yes`` and
    ``appendfsync always`` the death of the server and a power cut; with ``everysec`` up to two seconds may be missing.

    While the server is away, calls are tried for ``patience_s`` and then raise `StoreFailed`; such a write may have
    been carried out all the same, which the next claim's reader sees in the journal. Leases are timed by the server.

    Args:
        address: The server, or its URL (see `RedisAddress`).
        patience_s: How long a call waits for a server that is away.
    """

    def __init__(self, address: RedisAddress | str, *, patience_s: float = PATIENCE_S) -> None:
        self.address = address if isinstance(address, RedisAddress) else RedisAddress(address)
        super().__init__(Calls(self.address, patience_s=patience_s), Keys(self.address.prefix))
        self._waiting = Waiting(self.address)
        self._known_dead: list[str] = []
        self._look_again_at = float("inf")
        self._ask_for_owners_at = 0.0

    @classmethod
    async def open(cls, address: RedisAddress | str, *, patience_s: float = PATIENCE_S) -> Self:
        """A store whose server is there and can keep it.

        Raises:
            InvalidRequest: The URL cannot be understood.
            StoreFailed: The server cannot be reached or used, or the data was written by a later version.
        """
        store = cls(address, patience_s=patience_s)
        try:
            await check_server(store._calls, store.address.shown)
        except BaseException:
            await store.aclose()
            raise
        return store

    # Jobs

    async def create(
        self,
        record: JobRecord,
        *,
        lease_s: float | None = None,
        payment: Payment | None = None,
        first: Change | None = None,
    ) -> None:
        """Adds a job and sets aside what it may cost, in one step."""
        fields = record_fields(record)
        words = [word for item in fields.items() for word in item]
        paying = [] if payment is None else payment_arguments(payment)
        lease = "" if lease_s is None else _microseconds(lease_s)
        status, *details = await self._calls.script("create", record.id, lease, len(fields), *words, *paying)
        if status == b"exists":
            raise job_exists(details[0].decode())
        if status == b"exhausted":
            assert payment is not None
            raise exhausted(details, payment.caps)
        if first is not None:
            await self.append(record.id, 1, **first._asdict())

    async def find(self, *, tenant: str, idempotency_key: str) -> JobRecord | None:
        """The job that a tenant has created with this key."""
        status, *details = await self._calls.script("find", tenant, idempotency_key, is_read=True)
        return decoded_record(details[0]) if status == b"ok" else None

    async def get(self, job_id: str) -> JobRecord:
        """One job."""
        answer = await self._calls.script("get", job_id, is_read=True)
        return decoded_record(_known(job_id, answer)[0])

    async def list_jobs(
        self,
        *,
        state: JobState | None = None,
        tenant: str | None = None,
        batch: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[JobRecord]:
        """Jobs, newest first."""
        wanted = {"state": state and state.value, "tenant": tenant, "batch": batch}
        words = [word for name, value in wanted.items() if value is not None for word in (name, value)]
        found = await self._calls.script("list", upper_bound(before), max(limit, 0), *words, is_read=True)
        return [decoded_record(fields) for fields in found]

    async def claim(self, job_id: str, owner: str, *, lease_s: float, force: bool = False) -> int:
        """Takes the job, which is running from now on; returns the new epoch."""
        dead = ""
        while True:
            words = (job_id, owner, _microseconds(lease_s), int(force), dead)
            status, *details = _known(job_id, await self._calls.script("claim", *words), with_status=True)
            if status == b"ok":
                return int(details[0])
            state, holder, left_us = details
            dead = holder.decode()
            check_claim(
                job_id,
                state=JobState(state.decode()),
                holder=dead,
                lease_until=int(left_us) / 1e6,
                owner=owner,
                now=0,
                force=force,
            )  # returns if the holder is dead

    async def delete(self, job_id: str) -> None:
        """Removes a job and its journal, and releases what is set aside for it."""
        await self._calls.script("delete", job_id)

    # Journals

    @property
    def is_durable(self) -> bool:
        """The server outlives the process."""
        return True

    async def append(
        self,
        job_id: str,
        epoch: int,
        rows: Sequence[JournalRow],
        *,
        state: JobState | None = None,
        result: dict[str, Any] | None = None,  # Any: JSON values
    ) -> None:
        """Adds rows and changes the job's state, all or nothing; carried out even if the caller is cancelled."""
        texts = row_texts(rows)
        seq = rows[0].seq if rows else None
        status, *details = await self._calls.script(
            "append",
            job_id,
            epoch,
            "" if seq is None else seq,
            "" if state is None else state.value,
            "" if result is None else encoded(result),
            "" if result is None else amount_text(cost_in(result)),
            self.address.journal_ttl_s or "",
            *texts,
        )
        if status == b"ok":
            return
        current_epoch, next_seq = details or (None, 0)
        raise lease_lost(job_id, epoch=epoch, current_epoch=current_epoch, seq=seq, next_seq=next_seq)

    async def read(self, job_id: str, *, after: int = -1) -> list[JournalRow]:
        """Rows with a position above ``after``; none for an unknown job."""
        first = max(after + 1, 0)
        return decoded_rows(await self._calls.read("LRANGE", self._keys.rows(job_id), first, -1), first)

    # Queue

    async def take(self, owner: str, *, lease_s: float, most_per_tenant: int | None = None) -> Claimed | None:
        """Claims the job that is next; one that is taken for a caller who is cancelled is put back."""
        while True:
            dead, self._known_dead = self._known_dead, []
            most = "" if most_per_tenant is None else str(most_per_tenant)
            is_time = (now := asyncio.get_running_loop().time()) >= self._ask_for_owners_at
            if is_time:
                self._ask_for_owners_at = now + _OWNERS_S
            words = [secrets.token_hex(8), f"{socket.gethostname()}:", str(int(is_time)), *dead]
            asked = self._calls.submit("take", owner, _microseconds(lease_s), most, *words)
            try:
                status, *details, neighbours = await asyncio.shield(asked)
            except asyncio.CancelledError:
                asked.add_done_callback(self._put_back)
                raise
            self._known_dead = _dead([name.decode() for name in neighbours])
            if status == b"ok":
                return _claimed(details)
            if not self._known_dead:
                soon = asyncio.get_running_loop().time() + max(0, int(details[0])) / 1e6 if details[0] else float("inf")
                self._look_again_at = soon
                return None

    async def ask_to_cancel(self, job_id: str) -> JobRecord:
        """Marks an unfinished job, and returns it as it is then."""
        return decoded_record(_known(job_id, await self._calls.script("cancel", job_id))[0])

    async def wanted_cancelled(self, owner: str) -> list[str]:
        """Jobs of this owner that run and are to be cancelled."""
        found = await self._calls.read("SINTER", self._keys.cancel, self._keys.owner(owner))
        return sorted(job_id.decode() for job_id in found)

    async def count_jobs(self, *, tenant: str | None = None) -> dict[JobState, int]:
        """How many jobs there are in each state that has any."""
        counts = await self._calls.script("count", "" if tenant is None else f":{tenant}", is_read=True)
        return {JobState(state.decode()): int(count) for state, count in pairs(counts) if count}

    async def wait_for_work(self, *, timeout_s: float) -> None:
        """Returns when there may be something to take or to cancel; also when the first lease runs out."""
        self._calls.check_open()
        until_lease_s = max(0.0, self._look_again_at - asyncio.get_running_loop().time())
        await self._waiting.for_change(self._keys.work, timeout_s=min(timeout_s, until_lease_s + 0.001))
        self._look_again_at = float("inf")

    async def wait_for_news(self, job_id: str, *, after: int, timeout_s: float) -> None:
        """Returns when the job has a row above ``after`` or another state."""
        self._calls.check_open()

        def is_enough(news: bytes) -> bool:
            next_seq, _, state = news.decode().partition(" ")
            return not state or int(next_seq) > after + 1 or JobState(state).is_terminal

        async def look() -> bytes:
            next_seq, state = await self._calls.read("HMGET", self._keys.job(job_id), "next", "state")
            return b"gone" if state is None else next_seq + b" " + state

        await self._waiting.until(self._keys.news(job_id), is_enough, look, timeout_s=timeout_s)

    # The end, and the state of the data

    async def aclose(self) -> None:
        """Writes what was asked for and closes the connections; safe to call twice."""
        await self._waiting.aclose()
        await self._calls.aclose()

    def check_integrity(self) -> None:
        """Raises AssertionError if a journal has gaps, or an index contradicts a record. Blocks."""
        check_integrity(self.address)

    def _put_back(self, asked: asyncio.Future[Any]) -> None:  # Any: what Redis answers
        """Nobody waits for the job that was taken."""
        if asked.cancelled() or asked.exception() is not None or asked.result()[0] != b"ok":
            return
        _, *details, _ = asked.result()
        claimed = _claimed(details)
        words = (claimed.record.id, claimed.epoch, "", JobState.QUEUED.value, "", "", "")
        try:
            self._calls.submit("append", *words).add_done_callback(_ignore_outcome)
        except StoreFailed:  # it is closed; the job's lease runs out
            return


def _dead(owners: Sequence[str]) -> list[str]:
    """Those whose process has ended; each process is looked at once."""
    processes = {owner: owner.rpartition(":")[0] for owner in owners}
    ended = {process for process in set(processes.values()) if is_dead(process)}
    return [owner for owner, process in processes.items() if process in ended]


def _claimed(details: list[Any]) -> Claimed:  # Any: what Redis answers
    epoch, fields = details
    return Claimed(decoded_record(fields), int(epoch))


def _ignore_outcome(asked: asyncio.Future[Any]) -> None:  # Any: what Redis answers
    """A job that could not be put back is taken when its lease runs out."""
    if not asked.cancelled():
        asked.exception()


def _known(job_id: str, answer: list[Any], *, with_status: bool = False) -> list[Any]:  # Any: what Redis answers
    """The answer of a script about one job.

    Raises:
        UnknownName: It knows no such job.
    """
    if answer[0] == b"unknown":
        raise unknown_job(job_id, [name.decode() for name in answer[1]])
    return answer if with_status else answer[1:]


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
