"""The tables of an SQLite store, and how files of earlier versions become the present one."""

from __future__ import annotations

import sqlite3

VERSION = 2
"""Of the tables; kept in the file. 2: queue, accounts, documents; texts apart from what changes with every append."""

_JOBS = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    tenant TEXT NOT NULL DEFAULT '',
    key_id TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 0,
    due_at REAL,
    batch TEXT,
    idempotency_key TEXT,
    is_cancel_wanted INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT,
    lease_s REAL NOT NULL DEFAULT 0,
    lease_until REAL NOT NULL DEFAULT 0,
    next_seq INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_TEXTS = "CREATE TABLE texts (job_id TEXT PRIMARY KEY, spec TEXT NOT NULL, result TEXT)"
_JOURNAL = """
CREATE TABLE journal (
    job_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID
"""
_AROUND_JOBS = (
    "CREATE INDEX jobs_by_state ON jobs (state, id)",
    "CREATE INDEX jobs_by_tenant ON jobs (tenant, id)",
    "CREATE INDEX jobs_by_tenant_and_state ON jobs (tenant, state, id)",
    "CREATE INDEX jobs_by_batch ON jobs (batch, id) WHERE batch IS NOT NULL",
    "CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX jobs_waiting ON jobs (tenant, priority DESC, due_at IS NULL, due_at, id) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (owner, tenant) WHERE state = 'running'",
    # How many jobs of each tenant are in each state, where there are any; nobody has to count to admit another one.
    "CREATE TABLE counts (state TEXT, tenant TEXT, num INTEGER NOT NULL, PRIMARY KEY (state, tenant)) WITHOUT ROWID",
    # A number that changes when there may be something to take or to cancel.
    "CREATE TABLE signals (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO signals VALUES ('work', 0)",
    """
    CREATE TRIGGER job_entered AFTER INSERT ON jobs BEGIN
        INSERT INTO counts VALUES (NEW.state, NEW.tenant, 1) ON CONFLICT DO UPDATE SET num = num + 1;
        UPDATE signals SET value = value + 1 WHERE name = 'work' AND NEW.state = 'queued';
    END
    """,
    """
    CREATE TRIGGER job_moved AFTER UPDATE OF state ON jobs WHEN OLD.state != NEW.state BEGIN
        UPDATE counts SET num = num - 1 WHERE state = OLD.state AND tenant = OLD.tenant;
        DELETE FROM counts WHERE state = OLD.state AND tenant = OLD.tenant AND num = 0;
        INSERT INTO counts VALUES (NEW.state, NEW.tenant, 1) ON CONFLICT DO UPDATE SET num = num + 1;
        UPDATE signals SET value = value + 1
            WHERE name = 'work' AND (NEW.state = 'queued' OR OLD.state = 'running');
    END
    """,
    """
    CREATE TRIGGER job_left AFTER DELETE ON jobs BEGIN
        UPDATE counts SET num = num - 1 WHERE state = OLD.state AND tenant = OLD.tenant;
        DELETE FROM counts WHERE state = OLD.state AND tenant = OLD.tenant AND num = 0;
        UPDATE signals SET value = value + 1 WHERE name = 'work' AND OLD.state = 'running';
    END
    """,
    """
    CREATE TRIGGER job_marked AFTER UPDATE OF is_cancel_wanted ON jobs WHEN NEW.is_cancel_wanted BEGIN
        UPDATE signals SET value = value + 1 WHERE name = 'work';
    END
    """,
)
_OTHERS = (
    # Amounts are JSON text: they are exact, and some outgrow SQLite's integers.
    """
    CREATE TABLE books (
        account TEXT, period TEXT, spent TEXT NOT NULL, aside TEXT NOT NULL, PRIMARY KEY (account, period)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE holds (
        job_id TEXT PRIMARY KEY, account TEXT NOT NULL, amount TEXT NOT NULL, periods TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE TABLE buckets (account TEXT PRIMARY KEY, tokens REAL NOT NULL, since REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE documents (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID",
)
_FROM_1 = (
    "DROP INDEX jobs_by_state",
    "ALTER TABLE jobs RENAME TO jobs_1",
    _JOBS,
    _TEXTS,
    *_AROUND_JOBS,
    *_OTHERS,
    "INSERT INTO texts SELECT id, spec, result FROM jobs_1",
    """
    INSERT INTO jobs (id, state, created_at, updated_at, epoch, owner, lease_s, lease_until, next_seq)
        SELECT id, state, created_at, updated_at, epoch, owner, lease_s, lease_until, next_seq FROM jobs_1
    """,
    "DROP TABLE jobs_1",
)
_STEPS = {0: (_JOBS, _TEXTS, _JOURNAL, *_AROUND_JOBS, *_OTHERS), 1: _FROM_1}
"""What makes a file of each version one of the present version."""


def upgrade(connection: sqlite3.Connection, *, version: int) -> None:
    """Makes the tables what they are in `VERSION`; within a transaction of the caller's."""
    for statement in _STEPS[version]:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={VERSION}")
