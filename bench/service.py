"""What the service costs: ``python -m orchestrator.bench.service``.

Self-consistency over 8 samples through ``/v1/chat/completions``, on scripted models in the server's own process, and
over a model server on the same cores, there beside its-iaas where that is given; and the memory of waiting jobs and
open event streams. Load comes from wrk. Writes `service.json` and `service.md`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.bench.report import PUBLISHED, cell, machine, machine_line, spread, table, write
from orchestrator.bench.service_load import memory, wrk
from orchestrator.bench.service_load.servers import (
    SCRIPTED,
    Server,
    configure_its,
    its,
    samples_of,
    ttc,
    ttc_over,
    up,
    upstream,
)
from orchestrator.bench.service_load.upstream import MODEL

CLIENTS = (1, 16, 64)
NUM_SAMPLES = 8
NUM_JOBS, NUM_STREAMS = 10_000, 1_000
TARGETS = {"p50_ms_of_one_client": 4.0, "requests_per_s_of_16_clients_and_2_processes": 400.0, "times_its_iaas": 2.0}
_PROBLEM = "What is 3 + 4 * 2?"
_WARM_S = 2.0
_PAUSE_S = 1.5
"""Between loads: wrk leaves requests behind when its time is over, and a server may go on with them."""
Json = dict[str, Any]  # Any: JSON values


def chat(model: str) -> Json:
    """What clients of the service send."""
    message = {"role": "user", "content": _PROBLEM}
    return {"model": model, "messages": [message], "ttc": {"params": {"n": NUM_SAMPLES}}}


def its_chat() -> Json:
    """What clients of its-iaas send; its budget is configured."""
    return {"model": MODEL, "messages": [{"role": "user", "content": _PROBLEM}]}


class Rounds:
    """Loads of several servers in turn, gathered by server and number of clients.

    Args:
        folder: For scripts.
        seconds: Of one load.
    """

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._found: defaultdict[tuple[str, int], list[Json]] = defaultdict(list)

    def warm(self, server: Server, body: Json) -> None:
        """A load that does not count."""
        wrk.load(server.chats, body, clients=4, seconds=_WARM_S, folder=self._folder)

    def load(self, name: str, server: Server, body: Json, *, clients: int, models: Server | None = None) -> None:
        """One load of ``server``; what it asks of a model server, and that one's CPU time, are counted too."""
        time.sleep(_PAUSE_S)
        before, before_models = server.cpu_s(), _of_models(models)
        done = wrk.load(server.chats, body, clients=clients, seconds=self._seconds, folder=self._folder)
        cpu = server.cpu_s() - before
        models_cpu, samples = (now - then for now, then in zip(_of_models(models), before_models, strict=True))
        num = max(1, done.num_requests)
        self._found[name, clients].append(
            {
                "requests_per_s": done.num_requests / done.seconds,
                "p50_ms": done.p50_ms,
                "p99_ms": done.p99_ms,
                "cpu_ms": 1e3 * cpu / num,
                "models_cpu_ms": 1e3 * models_cpu / num,
                "samples": samples / num,
                "num_requests": done.num_requests,
                "num_failed": done.num_failed,
                "load_average_1min": os.getloadavg()[0],
            }
        )

    def summary(self) -> list[Json]:
        """Medians and ranges, by server and clients."""
        return [
            {
                "server": name,
                "clients": clients,
                "rounds": len(found),
                "num_requests": sum(one["num_requests"] for one in found),
                "num_failed": sum(one["num_failed"] for one in found),
                **{
                    key: spread([one[key] for one in found])
                    for key in (
                        "requests_per_s",
                        "p50_ms",
                        "p99_ms",
                        "cpu_ms",
                        "models_cpu_ms",
                        "samples",
                        "load_average_1min",
                    )
                },
            }
            for (name, clients), found in self._found.items()
        ]


def _of_models(models: Server | None) -> tuple[float, int]:
    """CPU seconds of a model server, and samples asked of it."""
    return (0.0, 0) if models is None else (models.cpu_s(), samples_of(models))


def in_process(folder: Path, *, rounds: int, seconds: float, workers: Sequence[int]) -> list[Json]:
    """Scripted models; jobs in SQLite, and in memory where one process serves."""
    servers: dict[str, Server] = {}
    for label, model in SCRIPTED.items():
        for num in workers:
            name = f"{label}, SQLite, {num} process{'es' * (num > 1)}"
            store = str(folder / f"{label}-{num}.sqlite")
            servers[name] = ttc(folder, model=model, store=store, workers=num, name=f"ttc-{label}-{num}")
        servers[f"{label}, memory, 1 process"] = ttc(folder, model=model, store="memory:", name=f"ttc-{label}-memory")
    found = Rounds(folder, seconds=seconds)
    body = chat("ttc/self_consistency")
    with up(*servers.values()):
        for server in servers.values():
            found.warm(server, body)
        for _ in range(rounds):
            for clients in CLIENTS:
                for name, server in servers.items():
                    found.load(name, server, body, clients=clients)
    return found.summary()


def over_http(folder: Path, *, rounds: int, seconds: float, its_command: str | None) -> list[Json]:
    """A model server on the same cores; ours beside its-iaas, in turn."""
    models = upstream(folder)
    ours = {
        "ttc, SQLite": ttc_over(models, folder, store=str(folder / "http.sqlite")),
        "ttc, memory": ttc_over(models, folder, store="memory:"),
    }
    theirs = {} if its_command is None else {"its-iaas": its(its_command, folder)}
    bodies = {**dict.fromkeys(ours, chat("ttc/self_consistency")), **dict.fromkeys(theirs, its_chat())}
    servers = ours | theirs
    found = Rounds(folder, seconds=seconds)
    with up(models, *servers.values()):
        for server in theirs.values():
            configure_its(server, models, budget=NUM_SAMPLES)
        for name, server in servers.items():
            found.warm(server, bodies[name])
        for _ in range(rounds):
            for clients in CLIENTS:
                for name, server in servers.items():
                    found.load(name, server, bodies[name], clients=clients, models=models)
    return found.summary()


def measure(options: argparse.Namespace) -> Json:
    """All measurements."""
    facts = machine()
    result: Json = {"machine": facts, "targets": TARGETS, "seconds": options.seconds, "has_wrk": wrk.is_installed()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if result["has_wrk"]:
            result["in_process"] = in_process(
                folder, rounds=options.rounds, seconds=options.seconds, workers=options.workers
            )
            result["over_http"] = over_http(
                folder, rounds=options.rounds, seconds=options.seconds, its_command=options.its
            )
        result["memory"] = {
            "SQLite": memory.measured(
                folder, store=str(folder / "memory.sqlite"), num_jobs=options.jobs, num_streams=options.streams
            ),
            "memory": memory.measured(folder, store="memory:", num_jobs=options.jobs, num_streams=options.streams),
        }
    result["load_average_1min_at_the_end"] = round(os.getloadavg()[0], 2)
    return result


def page(result: Json) -> str:
    """The figures as Markdown."""
    lines = [
        "# Service",
        "",
        f"Self-consistency over {NUM_SAMPLES} samples through `/v1/chat/completions` of `ttc serve`. Load from `wrk`,",
        f"each client one request after another, {result['seconds']:g} s a round, the servers in turn. Median (range)",
        "of rounds. CPU time is that of the server's processes, as the kernel counts it; where other work shares the",
        "machine it says more than wall-clock time, though it grows too when caches and cores are shared. Requests",
        "that were under way when a round ended have cost CPU time and samples, too, but are not counted as answered.",
        "Made by `python -m orchestrator.bench.service`.",
        "",
    ]
    if not result["has_wrk"]:
        lines += ["wrk is not installed here, so there was no load.", ""]
    else:
        lines += [
            "## Scripted models in the server's process",
            "",
            "`arithmetic` writes about 50 tokens a sample, which is part of the cost; `say` the same few words.",
            "",
            *_loads(result["in_process"], others=False),
            "",
            "## A model server on the same cores",
            "",
            "It answers at once: streamed word by word for ttc, which sends one call with n = 8, and whole for",
            "its-iaas, which sends 8 calls. The samples are those that the model server was asked for.",
            "",
            *_loads(result["over_http"], others=True),
            "",
            *_ratios(result["over_http"]),
        ]
    lines += [*_memory(result["memory"]), "", *_targets(result), machine_line(result["machine"])]
    return "\n".join(lines) + "\n"


def _loads(rows: Sequence[Json], *, others: bool) -> list[str]:
    measures = [
        "requests/s",
        "p50 ms",
        "p99 ms",
        "CPU ms/request",
        *(["model server's CPU ms", "samples/request"] if others else []),
    ]
    head = ["server", "clients", *measures, "requests", "failed", "load average"]
    cells = []
    for row in rows:
        values = [row["server"], row["clients"], cell(row["requests_per_s"], 0), cell(row["p50_ms"], 1)]
        values += [cell(row["p99_ms"], 1), cell(row["cpu_ms"], 2)]
        values += [cell(row["models_cpu_ms"], 2), cell(row["samples"], 2)] if others else []
        values += [row["num_requests"], row["num_failed"], cell(row["load_average_1min"], 1)]
        cells.append(values)
    return table(head, cells)


def ratios(rows: Sequence[Json]) -> dict[int, dict[str, float]]:
    """How many times the requests/s and the CPU time of its-iaas ours are, by clients; jobs in SQLite."""
    by_name = {(row["server"], row["clients"]): row for row in rows}
    found: dict[int, dict[str, float]] = {}
    for (name, clients), theirs in by_name.items():
        if name == "its-iaas":
            ours = by_name["ttc, SQLite", clients]
            found[clients] = {
                "requests_per_s": ours["requests_per_s"]["median"] / theirs["requests_per_s"]["median"],
                "cpu": ours["cpu_ms"]["median"] / theirs["cpu_ms"]["median"],
            }
    return found


def _ratios(rows: Sequence[Json]) -> list[str]:
    found = ratios(rows)
    if not found:
        return ["its-iaas was not given (`--its COMMAND`), so nothing is compared.", ""]
    said = [
        f"{clients} client{'s' * (clients > 1)}: {ratio['requests_per_s']:.1f} times its requests/s, "
        f"with {ratio['cpu']:.1f} times its CPU time each"
        for clients, ratio in found.items()
    ]
    return [f"ttc with jobs in SQLite beside its-iaas: {'; '.join(said)}.", ""]


def _memory(by_store: dict[str, Json]) -> list[str]:
    head = (
        "jobs in",
        "waiting jobs",
        "MiB before",
        "with jobs",
        "KiB per job",
        "open streams",
        "MiB",
        "KiB per stream",
    )
    rows = [
        (
            name,
            row["num_jobs"],
            f"{row['rss_mib']['before']:.0f}",
            f"{row['rss_mib']['jobs']:.0f}",
            f"{row['kib_per_job']:.1f}",
            row["num_streams"],
            f"{row['rss_mib']['streams']:.0f}",
            f"{row['kib_per_stream']:.1f}",
        )
        for name, row in by_store.items()
    ]
    return ["## Memory of a process", "", *table((*head, "CPU ms to take in a job"), _with_cpu(rows, by_store))]


def _with_cpu(rows: Sequence[tuple[Any, ...]], by_store: dict[str, Json]) -> list[tuple[Any, ...]]:
    cpu = [f"{row['cpu_ms_per_job_taken_in']:.2f}" for row in by_store.values()]
    return [(*row, own) for row, own in zip(rows, cpu, strict=True)]


def _targets(result: Json) -> list[str]:
    targets = result["targets"]
    lines = ["## Targets", "", "They are meant for cores that do nothing else; medians with jobs in SQLite.", ""]
    if not result["has_wrk"]:
        return []
    rows = {(row["server"], row["clients"]): row for row in result["in_process"]}
    found: list[tuple[str, str, str, bool]] = []
    for model in SCRIPTED:
        p50, most = rows[f"{model}, SQLite, 1 process", 1]["p50_ms"]["median"], targets["p50_ms_of_one_client"]
        found.append((f"{model}: p50 of one client", f"under {most:g} ms", f"{p50:.1f} ms", p50 < most))
        if (two := rows.get((f"{model}, SQLite, 2 processes", 16))) is not None:
            rate, least = two["requests_per_s"]["median"], targets["requests_per_s_of_16_clients_and_2_processes"]
            label = f"{model}: 16 clients, 2 processes"
            found.append((label, f"{least:g} requests/s", f"{rate:.0f} requests/s", rate >= least))
    least = targets["times_its_iaas"]
    for clients, ratio in ratios(result["over_http"]).items():
        times = ratio["requests_per_s"]
        found.append((f"beside its-iaas, clients: {clients}", f"{least:g} times", f"{times:.1f} times", times >= least))
    met = [(*row[:3], "met" if row[3] else "not met") for row in found]
    return [*lines, *table(("", "target", "measured", ""), met), ""]


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of the service")
    parser.add_argument("--its", help="the command its-iaas, from an environment with its-hub[lm,iaas]")
    parser.add_argument("--jobs", type=int, default=NUM_JOBS, help="that wait")
    parser.add_argument("--streams", type=int, default=NUM_STREAMS, help="that are open")
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    result = measure(options)
    text = page(result)
    write(options.out, "service", result, text)
    print(text)


if __name__ == "__main__":
    main()
