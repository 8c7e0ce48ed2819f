"""The long counts: ``python -m orchestrator.bench.soak``, which ``make soak`` runs, writes `soak.json` and `soak.md`.

The same tests as in `make test`, with counts by which rare failures show. They are run by pytest in a process of its
own; this module keeps what it said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write

COUNTS = {"TTC_SOAK_RUNS": "12000", "TTC_SOAK_KILLS": "300"}
"""Random jobs whose caps are checked, and processes killed; 300 writers of a store are killed besides."""
TESTS = (
    "tests/integration/test_budgets_hold.py",
    "tests/integration/test_crash.py",
    "tests/integration/test_store_survives_processes.py",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test: its name, how it ended, how long it took, and what it printed."""

    test: str
    outcome: str
    seconds: float
    said: str


def soak() -> list[Outcome]:
    """Runs the tests; the environment's counts go before the ones here."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *TESTS, "--timeout=10800", f"--junitxml={report}"]
        command += ["-o", "junit_logging=system-out"]
        subprocess.run(command, check=False, env={**COUNTS, **os.environ})  # noqa: S603  # fixed words
        if not report.is_file():
            return []
        cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314  # written by the line above
        return [_outcome(case) for case in cases]


def _outcome(case: ElementTree.Element) -> Outcome:
    said = [line for line in (case.findtext("system-out") or "").splitlines() if line and not line.startswith("---")]
    bad = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")
    return Outcome(case.get("name", ""), bad, float(case.get("time", "0")), "; ".join(said))


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The figures as Markdown."""
    counts = result["counts"]
    lines = [
        "# Soak",
        "",
        f"{int(counts['TTC_SOAK_RUNS']):,} random jobs whose caps, books and answers are checked;",
        f"{int(counts['TTC_SOAK_KILLS']):,} processes killed while they run jobs, and 300 while they write to a store.",
        "Made by `make soak`.",
        "",
        *table(
            ("test", "outcome", "seconds", "it said"),
            [
                (
                    row["test"].removeprefix("test_").replace("_", " "),
                    row["outcome"],
                    f"{row['seconds']:.0f}",
                    row["said"],
                )
                for row in result["tests"]
            ],
        ),
        "",
        machine_line(result["machine"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs everything and writes the report; 1 if a test did not pass."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    options = parser.parse_args()
    facts = machine()
    counts = {name: os.environ.get(name, default) for name, default in COUNTS.items()}
    outcomes = soak()
    if not outcomes:
        print("pytest did not run", file=sys.stderr)
        return 1
    result = {"machine": facts, "counts": counts, "tests": [asdict(outcome) for outcome in outcomes]}
    text = page(result)
    write(options.out, "soak", result, text)
    print(text)
    return 0 if all(outcome.outcome == "passed" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
