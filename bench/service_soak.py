"""The service under clients that leave and processes that die: ``python -m orchestrator.bench.service_soak``.

Writes `service_soak.json` and `service_soak.md`. What must be so is written in `soaking.leaving_rules` and
`soaking.crash_rules`; a rule that does not hold is a problem, and any problem makes the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write
from orchestrator.bench.soaking import crash_rules
from orchestrator.bench.soaking.crashing import LEASE_S, NUM_APIS, NUM_CONTROLLERS, crash
from orchestrator.bench.soaking.leaving import leave
from orchestrator.bench.soaking.leaving_rules import NOTICE_S, SOCKET_S

Json = dict[str, Any]  # Any: JSON values

JOBS_LEFT, JOBS_REDIS, JOBS_SQLITE = 500, 1000, 400
"""Jobs that clients leave, and jobs under which processes die, by store."""
PARTS = {"leaving": JOBS_LEFT, "redis": JOBS_REDIS, "sqlite": JOBS_SQLITE}
SEED = 20261121


def measure(part: str, num_jobs: int, *, seed: int) -> Json:
    """One run: ``leaving``, or the store under which processes die; with the machine it ran on."""
    facts = machine()
    with _folder() as folder:
        if part == "leaving":
            found = asyncio.run(leave(num_jobs, seed=seed, folder=folder, say=_say))
        else:
            found = asyncio.run(crashed(num_jobs, seed=seed, folder=folder, uses_redis=part == "redis"))
    return found | {"machine": facts}


async def crashed(num_jobs: int, *, seed: int, folder: Path, uses_redis: bool) -> Json:
    """The figures of one run under which processes die."""
    look = partial(crash_rules.look, num_jobs=num_jobs, seed=seed)
    return await crash(num_jobs, seed=seed, folder=folder, uses_redis=uses_redis, look=look, say=_say)


def page(result: Json) -> str:
    """The figures as Markdown."""
    lines = ["# The service: clients that leave, processes that die", "", "Made by `make soak`."]
    if (leaving := result.get("leaving")) is not None:
        lines += ["", "## Clients that leave", "", *_leaving(leaving)]
    stores: Json = {name: result[name] for name in ("redis", "sqlite") if name in result}
    if stores:
        lines += ["", "## Processes that die", "", *_crashing(stores)]
    problems = [problem for part in ("leaving", *stores) for problem in result.get(part, {}).get("problems", ())]
    lines += ["", "Rules that did not hold: " + ("none." if not problems else "")]
    lines += [f"- {problem}" for problem in problems]
    lines += [line for name, part in result.items() for line in ("", f"{name}: {machine_line(part['machine'])}")]
    return "\n".join(lines) + "\n"


def _leaving(found: Json) -> list[str]:
    notice = found["notice_s"]
    return [
        *_paragraph(
            f"{found['num_jobs']:,} jobs of {found['num_clients']} clients at a time: chat completions, streamed and",
            "plain, whose client closes the connection, and `/v1/jobs` with DELETE and with event streams that are",
            "closed, at random moments. Behind the service is a model server of ours over HTTP, which logs what it is",
            "asked for and what it writes.",
        ),
        "",
        *table(
            ("", ""),
            [
                ("clients who left", f"{found['num_left']:,}, of chats {found['num_chats_left']:,}"),
                ("jobs that this ended early", f"{found['num_left_before_end']:,}"),
                ("calls of the model", f"{found['num_calls']:,}, of which cut {found['num_calls_cut']:,}"),
                (
                    "calls that began after the client had left",
                    f"in flight: {found['num_calls_in_flight']}, of which {found['num_calls_closed_when_read']} were "
                    f"closed when they were read (the last after {found['longest_in_flight_s']} s); "
                    f"others: {found['num_calls_after']}",
                ),
                (
                    "from leaving until the model server sees it",
                    f"median {notice.get('median')} s, 99th percentile {notice.get('p99')} s, "
                    f"longest {notice.get('max')} s",
                ),
                ("tokens that the model server wrote", f"{found['written_tokens']:,}"),
                ("of them after the client had left", f"{found['num_tokens_after']:,}"),
                ("tokens that the service counts", f"{found['output_tokens']:,}"),
                (
                    "jobs whose counts are equal",
                    f"{found['num_jobs_with_equal_counts']:,}; most tokens apart: {found['largest_gap_tokens']}",
                ),
                ("tokens booked on the account", f"{found['account_tokens']:,}"),
            ],
        ),
        "",
        *_paragraph(
            f"The rules, for each job: no call begins later than {NOTICE_S:g} s after its client has left, or after",
            "the model server has seen a call of it cut (but for calls that it found closed, since it was behind); the",
            f"service counts no token that was not written, and every token that was written {SOCKET_S:g} s before the",
            "client left or the call ended. Where nobody left the counts are equal.",
        ),
    ]


def _crashing(stores: Json) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("jobs", *(f"{found['num_jobs']:,}" for found in stores.values())),
        ("succeeded", *(f"{found['num_succeeded']:,}" for found in stores.values())),
        *(
            (harm, *(str(found["harm"].get(harm, 0)) for found in stores.values()))
            for harm in sorted({harm for found in stores.values() for harm in found["harm"]})
        ),
        ("jobs that another process went on with", *(f"{found['num_jobs_resumed']:,}" for found in stores.values())),
        (
            "tokens paid, of which lost in flight",
            *(f"{found['paid_tokens']:,}, {found['lost_tokens']:,}" for found in stores.values()),
        ),
        ("tokens booked on the account", *(f"{found['account_tokens']:,}" for found in stores.values())),
        (
            "event streams, connections, rows",
            *(
                f"{found['num_streams']:,}, {found['num_connections']:,}, {found['num_rows_read']:,}"
                for found in stores.values()
            ),
        ),
        ("seconds", *(f"{found['seconds']:.0f}" for found in stores.values())),
    ]
    return [
        *_paragraph(
            f"{NUM_APIS} processes of `ttc serve`, {NUM_CONTROLLERS} of `ttc controller`, leases of {LEASE_S:g} s; a",
            "scripted model with 10 ms a token in each controller. Redis keeps an append-only file (appendfsync",
            "always). Jobs come alone and in batches with idempotency keys, and are sent again until there is an",
            "answer.",
        ),
        "",
        *table(("", *stores), rows),
        "",
        *_paragraph(
            "The rules, for each job: it is there once, has succeeded, its journal has no gap and one end, and",
            "everybody was told the same of it; its tree and answer are those of a run that nothing interrupted, and",
            "it has paid what that run paid and what was lost, which is at most what was in flight when a life of it",
            "ended; whoever followed its events has read exactly the rows of the journal. The account holds the sum",
            "of what all jobs have paid.",
        ),
    ]


def _paragraph(*lines: str) -> list[str]:
    return textwrap.wrap(" ".join(lines), 120, break_long_words=False, break_on_hyphens=False)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="soak", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Runs everything and writes the report; 1 if a rule does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    parser.add_argument("--jobs", type=int, help="instead of the usual number")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("parts", nargs="*", help="leaving, redis, sqlite; all by default. The others stay as they are.")
    options = parser.parse_args()
    path: Path = options.out / "service_soak.json"
    result: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in options.parts or PARTS:
        result[part] = measure(part, options.jobs or PARTS[part], seed=options.seed)
        write(options.out, "service_soak", result, page(result))
    print(page(result))
    return 1 if any(part["problems"] for part in result.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
