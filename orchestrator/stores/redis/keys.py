"""The layout of a store in Redis: which keys there are, and how times, rows and bounds are written in them.

All keys begin with the root, the prefix in braces (``{ttc:}``): a hash tag, so that they share one slot of a cluster
and scripts may touch them together. Behind the root, with ID for a job's id:

=====================  ======  ==================================================================================
``meta``               hash    ``schema``: version of the data
``job:ID``             hash    the record, and ``next`` (position of the next row), ``place`` (in the queue), ``at``
                               (``queue``, ``held`` or ``none``), ``lease_us``, ``lease_until_us``, ``call``, ``cost``
                               (what the result says, as in ``account:BOOK``)
``rows:ID``            list    the journal, ``[kind, data]`` as JSON; the index is the row's position
``all``                zset    ids of all jobs, in the order of ids; ``all:TENANT`` those of one tenant
``state:STATE``        zset    ids of jobs in a state, likewise; ``state:STATE:TENANT``
``batch:BATCH``        zset    ids of a batch's jobs, likewise
``idempotency:TENANT`` hash    idempotency key to id
``queue:TENANT``       zset    places of jobs that may be taken, in the order in which they are: the queued ones,
                               and the running ones whose lease is known to be over
``heads``              zset    the first place of each tenant's queue; ``head_of``, a hash, has it by tenant
``held``               zset    ids of jobs under a lease, by the microsecond of its end
``num_held``           hash    number of such jobs by tenant
``owner:OWNER``        set     ids of such jobs by owner; ``owners`` is the set of owners
``cancel``             set     ids of unfinished jobs that are to be cancelled
``account:BOOK``       hash    ``spent`` and ``aside``, six numbers in the order of `Amount`'s fields; BOOK is
                               ``LENGTH:ACCOUNT:PERIOD``
``aside:ID``           hash    book to what is set aside for the job in it
``bucket:ACCOUNT``     hash    ``tokens`` and ``at_us`` of a rate limit; goes by itself
``documents:KIND``     hash    key to JSON; ``document_names:KIND`` is a zset of the keys
=====================  ======  ==================================================================================

Channels: ``work`` (something may be taken or is to be cancelled) and ``news:ID`` (``NEXT STATE`` or ``gone``).
All times of leases are the server's. Sorted sets other than ``held`` have scores of 0 and are sorted by bytes.
"""

from __future__ import annotations

import struct

from orchestrator.errors import InvalidRequest
from orchestrator.store import JobRecord

_LOWEST_PRIORITY, _HIGHEST_PRIORITY = -(2**63), 2**63 - 1
_NO_DUE = "f" * 16


class Keys:
    """Names of the keys and channels that Python code uses; scripts make theirs from the root."""

    def __init__(self, prefix: str) -> None:
        self.root = f"{{{prefix}}}"
        self.work = self.root + "work"
        self.cancel = self.root + "cancel"
        self.meta = self.root + "meta"

    def job(self, job_id: str) -> str:
        """The hash of a job."""
        return f"{self.root}job:{job_id}"

    def rows(self, job_id: str) -> str:
        """The list of a job's rows."""
        return f"{self.root}rows:{job_id}"

    def account(self, name: str) -> str:
        """The hash of a book."""
        return f"{self.root}account:{name}"

    def documents(self, kind: str) -> str:
        """The hash of the documents of a kind."""
        return f"{self.root}documents:{kind}"

    def owner(self, owner: str) -> str:
        """The set of jobs that an owner holds."""
        return f"{self.root}owner:{owner}"

    def news(self, job_id: str) -> str:
        """The channel of a job's news."""
        return f"{self.root}news:{job_id}"


def place_in_queue(record: JobRecord) -> str:
    """Text that sorts jobs: higher priority first, then the earlier due, then the older; 32 hex digits and the id.

    Raises:
        InvalidRequest: The priority is beyond 64 bits.
    """
    if not _LOWEST_PRIORITY <= record.priority <= _HIGHEST_PRIORITY:
        raise InvalidRequest(
            f"priority must fit in 64 bits, not {record.priority}", field="priority", value=record.priority
        )
    due = _NO_DUE if record.due_at is None else _sortable(record.due_at)
    return f"{_HIGHEST_PRIORITY - record.priority:016x}{due}{record.id}"


def _sortable(number: float) -> str:
    """16 hex digits that sort as the numbers do: the bits of the double, inverted for negative ones."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    bits = bits ^ 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63
    return f"{bits:016x}"


def book(account: str, period: str) -> str:
    """The name of an account in a period; different ones never have the same."""
    return f"{len(account)}:{account}:{period}"


def upper_bound(before: str | None, prefix: str = "") -> bytes:
    """Of keys that begin with ``prefix`` and come before ``before``; for ZREVRANGEBYLEX."""
    last = b"+" if not prefix else b"[" + prefix.encode() + b"\xff"  # no UTF-8 text has this byte
    if before is None:
        return last
    return b"(" + before.encode() if last == b"+" or before.encode() < last[1:] else last


def lower_bound(prefix: str) -> bytes:
    """Of keys that begin with ``prefix``; for ZREVRANGEBYLEX."""
    return b"[" + prefix.encode() if prefix else b"-"
