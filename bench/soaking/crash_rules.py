"""What must be so after processes have died: each job once, each outcome paid once, streams whole, books that agree.

Of each job, beside a run of the same request in this process that nothing interrupts:

- **Not lost, not twice.** There is one job for each request, it has succeeded, its journal is without gap and has one
  `final` row, and everybody who was told of its end was told the same.
- **Paid once.** Its tree and answer are those of the uninterrupted run, and what it has paid is what that run paid and
  what was lost. Lost is at most what can have been in flight when a life of it ended: in each life that was followed by
  another, the samples that it may run at once, each with its prompt and its longest length.
- **Streams.** Those who followed it, with as many connections as it took, have read exactly the rows of the journal.

And of all: the account holds the sum of what the jobs have paid, and nothing is set aside.
"""

from __future__ import annotations

from collections import Counter

from orchestrator import Budget, Orchestrator
from orchestrator.bench.soaking.crashing import Crashed, Json, request_of
from orchestrator.bench.soaking.streams import Follower
from orchestrator.budget import Amount
from orchestrator.job import Result
from orchestrator.journal import LOST_ALLOWANCE_TOKENS
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores import open_store
from orchestrator.testing.scripted import open_engine
from orchestrator.usage import Usage

_PAGE = 200
_SCRIPT = "arithmetic"


async def look(crashed: Crashed, *, num_jobs: int, seed: int) -> Json:
    """The figures, as JSON values; ``problems`` is empty if all rules hold."""
    store = await open_store(crashed.store)
    try:
        store.check_integrity()
        records: dict[str, JobRecord] = {}
        before: str | None = None
        while page := await store.list_jobs(limit=_PAGE, before=before):
            records |= {record.id: record for record in page}
            before = page[-1].id
        journals = {job_id: await store.read(job_id) for job_id in records}
        spent, set_aside = await store.spent(crashed.key_id, "total")
    finally:
        await store.aclose()
    followers: dict[str, list[Follower]] = {}
    for follower in crashed.told.followers:
        followers.setdefault(follower.job_id, []).append(follower)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    by_number: dict[int, list[str]] = {}
    for record in records.values():
        by_number.setdefault(int(record.spec["labels"]["number"]), []).append(record.id)
    async with Orchestrator(await open_engine(_SCRIPT)) as ttc:
        for number in range(num_jobs):
            ids = set(by_number.get(number, ())) | crashed.told.ids.get(number, set())
            if len(ids) != 1 or not ids <= records.keys():
                problems.append(f"job {number}: there are {sorted(ids)}")
                continue
            (job_id,) = ids
            record, rows = records[job_id], journals[job_id]
            expected = await _uninterrupted(ttc, number, seed)
            replayed = await _replayed(ttc, record, rows)
            found = [
                *_told(record, rows, crashed.told.answers.get(job_id, set())),
                *_paid(record, rows, expected, replayed),
                *(problem for follower in followers.get(job_id, ()) for problem in _read(follower, rows)),
            ]
            problems += [f"job {number} ({job_id}): {problem}" for problem in found]
            _count(counts, record)
    total = sum((_usage(record).amount for record in records.values()), Amount())
    if spent != total:
        problems.append(f"the account says {spent.to_json()}, the jobs {total.to_json()}")
    if set_aside != Amount():
        problems.append(f"still set aside: {set_aside.to_json()}")
    if len(records) != num_jobs:
        problems.append(f"there are {len(records)} jobs")
    return {
        "num_jobs": num_jobs,
        "num_succeeded": sum(record.state is JobState.SUCCEEDED for record in records.values()),
        "harm": crashed.harm,
        "num_harms": sum(crashed.harm.values()),
        "num_lives": counts["lives"],
        "num_jobs_resumed": counts["resumed"],
        "paid_tokens": total.total_tokens,
        "lost_tokens": counts["lost"],
        "account_tokens": spent.total_tokens,
        "num_streams": len(crashed.told.followers),
        "num_connections": sum(follower.num_connections for follower in crashed.told.followers),
        "num_rows_read": sum(len(follower.rows) for follower in crashed.told.followers),
        "responses": {str(status): count for status, count in sorted(crashed.told.statuses.items())},
        "problems": problems,
        "seed": seed,
        "seconds": crashed.seconds,
    }


async def _uninterrupted(ttc: Orchestrator, number: int, seed: int) -> Result:
    request = request_of(number, seed)
    return await ttc.solve(
        request["problem"],
        policy=request["policy"],
        params=request["params"],
        seed=request["seed"],
        budget=Budget(**request["budget"]),
    )


async def _replayed(ttc: Orchestrator, record: JobRecord, rows: list[JournalRow]) -> Result:
    """The job again, from its journal alone."""
    await ttc.store.create(record, lease_s=60)
    await ttc.store.append(record.id, 1, rows, state=record.state, result=record.result)
    try:
        return await ttc.replay(record.id)
    finally:
        await ttc.store.delete(record.id)


def _told(record: JobRecord, rows: list[JournalRow], answers: set[tuple[str, str | None]]) -> list[str]:
    found: list[str] = []
    if record.state is not JobState.SUCCEEDED:
        found.append(f"it is {record.state.value}: {(record.result or {}).get('error')}")
    if [row.seq for row in rows] != list(range(len(rows))):
        found.append("its journal has gaps")
    if [row.kind for row in rows].count("final") != 1:
        found.append("its journal has not one end")
    if answers != {(record.state.value, (record.result or {}).get("answer"))}:
        found.append(f"its end was told as {sorted(map(str, answers))}")
    return found


def _paid(record: JobRecord, rows: list[JournalRow], expected: Result, replayed: Result) -> list[str]:
    found: list[str] = []
    usage = _usage(record)
    if replayed.tree.to_json() != expected.tree.to_json():
        found.append("its tree is not that of the uninterrupted run")
    if (record.result or {}).get("answer") != expected.text:
        found.append("its answer is not that of the uninterrupted run")
    if usage.total_tokens - usage.lost_tokens != expected.usage.total_tokens:
        found.append(f"{usage.total_tokens} paid, {usage.lost_tokens} lost, {expected.usage.total_tokens} needed")
    longest = max((row.data["prompt"] for row in rows if row.kind == "dispatch"), default=0)
    longest += expected.usage.max_sequential_tokens + LOST_ALLOWANCE_TOKENS
    most = (record.epoch - 1) * expected.usage.peak_parallel_sequences * longest
    if usage.lost_tokens > most:
        found.append(f"{usage.lost_tokens} lost in {record.epoch - 1} lives; at most {most} were in flight")
    return found


def _read(follower: Follower, rows: list[JournalRow]) -> list[str]:
    if [(seq, kind, data) for seq, kind, data in follower.rows] == [(row.seq, row.kind, row.data) for row in rows]:
        return []
    return [f"a reader got {[seq for seq, _, _ in follower.rows]} of {len(rows)} rows"]


def _usage(record: JobRecord) -> Usage:
    return Usage.from_json((record.result or {}).get("usage", {}))


def _count(counts: Counter[str], record: JobRecord) -> None:
    counts["lives"] += record.epoch
    counts["resumed"] += record.epoch > 1
    counts["lost"] += _usage(record).lost_tokens
