"""The report of a benchmark: Markdown, plots, one self-contained HTML page, and the figures of all three as JSON.

Names in rows are foreign text. Markdown shows them as code, HTML escapes them, and the page has no script and loads
nothing: its plots are inside it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.bench.analysis.estimates import DEFAULT_MARGIN
from orchestrator.bench.analysis.findings import Findings, SetFindings, findings_of
from orchestrator.bench.analysis.plots import Look, Panel, draw, draw_svg, looks
from orchestrator.bench.analysis.tables import code, prose, shown
from orchestrator.bench.report import machine, machine_line
from orchestrator.bench.runs.rows import Row
from orchestrator.errors import MissingDependency

READING = (
    "Accuracies are means over problems, each problem the mean of its seeds; failed jobs count as wrong.",
    "Intervals are 95% bootstrap intervals over problems, all jobs of a problem together; they are not corrected for "
    "the number of comparisons on this page.",
    "Costs are means over jobs and hold everything a job spent: generation, verifiers, retries. Total tokens are those "
    "of prompts and output, effective FLOPs are compute plus memory traffic. A dash stands for what was not measured: "
    "wall-clock time of jobs replayed from a pool, dollars of models without prices.",
)
_SIGNS = ("\u25cf", "\u25a0", "\u25b2", "\u25c6", "\u25bc", "\u271a", "\u2716", "\u2b1f")  # as the markers of plots
_STROKES = ("\u2500", "\u254c", "\u2508", "\u2504")  # as their dashes
_LONGEST_SLUG = 60


@dataclass(frozen=True, slots=True)
class _Report:
    """What both pages are made of."""

    title: str
    findings: Findings
    facts: tuple[tuple[str, str], ...]
    pictures: tuple[str, ...]


def write_report(
    rows: Iterable[Row],
    out: Path,
    title: str,
    *,
    baseline: str | None = None,
    target: float | None = None,
    margin: float = DEFAULT_MARGIN,
    machine_facts: Mapping[str, Any] | None = None,  # Any: JSON values
) -> list[Path]:
    """Writes the report; its files are named after the title, so that several reports can share a folder.

    Args:
        rows: Jobs of any suites and sets.
        out: A folder; made if it is missing.
        title: Of the pages.
        baseline: What policies are compared with; see `orchestrator.bench.comparison.compare`.
        target: An accuracy at which costs are compared besides.
        margin: How much lower an accuracy may be and still count as not worse.
        machine_facts: What `orchestrator.bench.report.machine` said where the jobs ran; what it says here by default.

    Returns:
        ``NAME.md``, ``NAME.json``, ``NAME.html``, and ``NAME-SET.png`` for each set.

    Raises:
        InvalidRequest: There are no rows, or one holds a cost that is no number.
        UnknownName: There is no such baseline.
        MissingDependency: matplotlib is not installed; everything but the plots is written before.
    """
    kept = list(rows)
    findings = findings_of(kept, baseline=baseline, target=target, margin=margin)
    facts = machine_facts or machine()
    name = _slug(title)
    out.mkdir(parents=True, exist_ok=True)
    pictures, missing = _pictures(findings, out, name)
    where = "Machine of the jobs" if machine_facts else "Machine of this report"
    report = _Report(title, findings, _facts(kept, findings, (where, machine_line(facts))), tuple(pictures))
    made = dict(report.facts)
    files = {
        out / f"{name}.md": _markdown(report),
        out / f"{name}.json": json.dumps({"title": title, "made": made, **findings.to_json()}, indent=1) + "\n",
        out / f"{name}.html": _html(report, has_plots=missing is None),
    }
    for path, text in files.items():
        path.write_text(text, encoding="utf-8", errors="replace")
    if missing is not None:
        raise missing
    return [*files, *(out / picture for picture in pictures if picture)]


def _pictures(findings: Findings, out: Path, name: str) -> tuple[list[str], MissingDependency | None]:
    """File names of the plots, one a set, empty for a set with nothing to draw; and why there are none at all."""
    pictures: list[str] = []
    for one in findings.sets:
        if not one.panels:
            pictures.append("")
            continue
        slug = _slug(f"{name}-{one.group.set}")
        path = out / f"{slug if f'{slug}.png' not in pictures else f'{slug}-{len(pictures) + 1}'}.png"
        try:
            draw(one.panels, path, title=f"{shown(one.group.set)}: accuracy against cost, 95% intervals")
        except MissingDependency as error:
            return [], error
        pictures.append(path.name)
    return pictures, None


def _facts(rows: Sequence[Row], findings: Findings, machine_fact: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """How it was made, as pairs of our words and text that may be foreign."""
    seeds = sorted({row.seed for row in rows})
    first = ", ".join(map(str, seeds[:10])) + (", ..." if len(seeds) > 10 else "")
    jobs = sum(len(cell.cell.rows) for one in findings.sets for cell in one.cells)
    errors = sum(cell.num_errors for one in findings.sets for cell in one.cells)
    replayed = sum(cell.num_replayed for one in findings.sets for cell in one.cells)
    models = dict.fromkeys(row.model for row in rows)
    return (
        ("Suite", ", ".join(dict.fromkeys(shown(one.group.suite) for one in findings.sets))),
        ("Sets", ", ".join(f"{shown(one.group.set)} ({_num_problems(one)} problems)" for one in findings.sets)),
        ("Models", ", ".join(shown(model) for model in models)),
        ("Seeds", f"{first} ({len(seeds)})"),
        ("Jobs", f"{jobs:,}, of which {errors:,} failed and {replayed:,} were replayed from a pool"),
        machine_fact,
    )


def _num_problems(one: SetFindings) -> int:
    return len(set().union(*(cell.cell.problems for cell in one.cells)))


def _markdown(report: _Report) -> str:
    lines = [f"# {prose(report.title)}", ""]
    lines += [f"- {label}: {prose(text)}" for label, text in report.facts]
    lines += ["", *READING, ""]
    for place, one in enumerate(report.findings.sets):
        lines += [f"## {code(one.group.set)}", ""]
        if place < len(report.pictures) and report.pictures[place]:
            lines += [f"![Accuracy against cost]({report.pictures[place]})", ""]
        for table in one.tables():
            lines += table.markdown()
        lines += [f"- {prose(note)}" for note in one.notes] + ([""] if one.notes else [])
    return "\n".join(lines).rstrip() + "\n"


def _html(report: _Report, *, has_plots: bool) -> str:
    style = resources.files("orchestrator.bench.analysis").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    sets = report.findings.sets
    links = "".join(f'<a href="#set-{place}">{_shown(one.group.set)}</a>' for place, one in enumerate(sets))
    facts = "".join(f"<dt>{html.escape(label)}</dt><dd>{_escaped(text)}</dd>" for label, text in report.facts)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_shown(report.title)}</title>\n<style>{style}</style>\n</head>\n<body>",
            f'<header>\n<h1>{_shown(report.title)}</h1>\n<dl class="facts">{facts}</dl>',
            *(f'<p class="note">{html.escape(sentence)}</p>' for sentence in READING),
            f"<nav>{links if len(sets) > 1 else ''}</nav>\n</header>\n<main>",
            *(_html_section(one, place, has_plots=has_plots) for place, one in enumerate(sets)),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _html_section(one: SetFindings, place: int, *, has_plots: bool) -> str:
    look = looks(one.panels)
    signs = "".join(
        f'<li><span class="mark c{style.colour}">{_sign(style, number)}</span>{_shown(name)}</li>'
        for number, (name, style) in enumerate(look.items())
    )
    plots = [_html_plot(panel, look) for panel in one.panels] if has_plots else []
    parts = [f'<section id="set-{place}">\n<h2>{_shown(one.group.set)}</h2>']
    if plots:
        parts.append(f'<ul class="legend">{signs}</ul>\n<div class="plots">{"".join(plots)}</div>')
    parts += [table.html() for table in one.tables()]
    parts += [f'<p class="note">{_escaped(note)}</p>' for note in one.notes]
    return "\n".join([*parts, "</section>"])


def _html_plot(panel: Panel, look: Mapping[str, Look]) -> str:
    """The plot in both themes, as images that hold everything they need."""
    light, dark = (
        f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}" for text in draw_svg(panel, look=look)
    )
    words = html.escape(f"Plot of accuracy against {panel.x_title}; its figures are in the first table.")
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{words}" width="500" height="375"></picture></figure>'
    )


def _sign(style: Look, number: int) -> str:
    stroke = _STROKES[number // len(_SIGNS) % len(_STROKES)]
    return f"{stroke}{_SIGNS[style.colour]}{stroke}"


def _shown(text: str) -> str:
    return html.escape(shown(text))


def _escaped(text: str) -> str:
    return html.escape(shown(text, longest=2000))


def _slug(text: str) -> str:
    """A name for files: small letters, digits, dots, dashes and underscores."""
    words = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:_LONGEST_SLUG].strip("-.")
    return words or "report"
