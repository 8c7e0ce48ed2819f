"""How a run is told: as Markdown, which is also what the terminal shows, as JSON, and in the files of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.bench import report
from orchestrator.bench.load.exchange import Exchange
from orchestrator.bench.load.measures import PERCENTILES
from orchestrator.errors import StoreFailed

NAME = "load"

_LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "inter_chunk": "between chunks",
    "e2e": "end to end",
}
_Json = Mapping[str, Any]  # Any: JSON values


def page(result: _Json) -> str:
    """The figures of a run as Markdown, columns aligned."""
    figures = result["figures"]
    parts = [
        ["# Load test", "", result["plan"]["description"]],
        _stopped(result) + _summary(figures),
        _latencies(figures["latency_s"]),
        _goodput(figures["goodput"]),
        _errors(figures["errors"]),
        _windows(figures["windows"]),
        _sender(figures["sender"]),
        [f"Sent from {report.machine_line(result['machine'])}"],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def write_files(folder: Path, result: _Json, exchanges: Iterable[Exchange]) -> None:
    """Writes ``load.json``, ``load.md`` and ``requests.jsonl``.

    Raises:
        StoreFailed: They cannot be written.
    """
    try:
        report.write(folder, NAME, result, page(result))
        with (folder / "requests.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(exchange.to_json()) + "\n" for exchange in exchanges)
    except OSError as error:
        raise StoreFailed(f"cannot write to {str(folder)!r}: {error.strerror}", path=str(folder)) from error


def _stopped(result: _Json) -> list[str]:
    return ["**Stopped before its end.** Figures are of what was seen until then.", ""] if result["is_stopped"] else []


def _summary(figures: _Json) -> list[str]:
    counts, rates, tokens = figures["counts"], figures["throughput"], figures["tokens"]
    words = [f"{counts['sent']} of {counts['planned']} requests sent", f"{counts['completed']} completed"]
    words.append(f"{counts['failed']} failed")
    if counts["dropped"]:
        words.append(f"{counts['dropped']} dropped because too many were in flight")
    if counts["in_flight_at_stop"]:
        words.append(f"{counts['in_flight_at_stop']} in flight when it was stopped")
    estimated = tokens["num_requests_estimated"]
    lines = [
        f"- {', '.join(words)}; at most {counts['peak_in_flight']} in flight at once",
        f"- {figures['duration_s']:.1f} s from the start to the end of the last request; planned: "
        f"{rates['planned_requests_per_s']:.3g} requests/s",
        f"- throughput: {rates['completed_requests_per_s']:.3g} requests/s, "
        f"{rates['output_tokens_per_s']:.3g} output tokens/s",
        f"- {tokens['output']:,} output tokens (at most {tokens['output_wanted_at_most']:,} were asked for)"
        + (f"; estimated by chunks for {estimated} requests, for which the server told no count" if estimated else ""),
    ]
    if tokens["prompt"]:
        wanted = f", {tokens['prompt_wanted']:,} wanted" if tokens["prompt_wanted"] else ""
        lines.append(f"- {tokens['prompt']:,} prompt tokens{wanted}, {tokens['prompt_cached']:,} of them cached")
    return lines


def _latencies(latencies: _Json) -> list[str]:
    columns = ["mean", *(f"p{percent}" for percent in PERCENTILES), "max"]
    rows = [
        [words, str(latencies[name]["count"]), *(_seconds(latencies[name].get(column)) for column in columns)]
        for name, words in _LATENCIES.items()
    ]
    return ["## Latencies of completed requests, in seconds", "", *_table(["", "count", *columns], rows)]


def _goodput(goodput: _Json) -> list[str]:
    if not goodput["slo_s"]:
        return []
    limits = ", ".join(f"{name} at most {limit:g} s" for name, limit in goodput["slo_s"].items())
    missed = ", ".join(f"{name} {count}" for name, count in goodput["missed_by_completed"].items())
    return [
        f"## Goodput: {goodput['requests_per_s']:.3g} requests/s",
        "",
        f"{goodput['num_good']} of {goodput['num_judged']} requests ({goodput['share']:.0%}) kept {limits}. "
        f"Completed ones that did not: {missed}.",
    ]


def _errors(errors: _Json) -> list[str]:
    if not errors:
        return []
    rows = [[kind, str(each["count"]), each["first_message"].replace("|", "\\|")] for kind, each in errors.items()]
    return ["## Errors", "", *_table(["kind", "requests", "the first one said"], rows)]


def _windows(windows: Sequence[_Json]) -> list[str]:
    head = ["from s", "to s", "sent", "completed", "failed", "in flight", "tokens/s", "TTFT p50", "TTFT p99", "e2e p50"]
    rows = [
        [
            f"{each['from_s']:g}",
            f"{each['to_s']:.4g}",
            *(str(each[name]) for name in ("sent", "completed", "failed", "in_flight_at_end")),
            f"{each['output_tokens'] / max(each['to_s'] - each['from_s'], 1e-9):.3g}",
            _seconds(each["ttft_s"].get("p50")),
            _seconds(each["ttft_s"].get("p99")),
            _seconds(each["e2e_s"].get("p50")),
        ]
        for each in windows
    ]
    return ["## Over time", "", *_table(head, rows)]


def _sender(sender: _Json) -> list[str]:
    lag = sender["lag_s"]
    if not lag["count"]:
        return []
    line = (
        f"Requests were sent {lag['p50'] * 1000:.1f} ms (p50), {lag['p99'] * 1000:.1f} ms (p99), at most "
        f"{lag['max'] * 1000:.1f} ms after the plan; the sender used {sender['cpu_share']:.0%} of a core."
    )
    return [line, *(f"\n**Warning:** {warning}." for warning in sender["warnings"])]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    lines.insert(1, ["-" * max(3, width) for width in widths])
    return [f"| {' | '.join(line)} |" for line in lines]
