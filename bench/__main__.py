"""The smoke suite, and the page of all stored figures: ``python -m orchestrator.bench``, which ``make bench`` runs.

The smoke suite shows in minutes that every benchmark works and roughly what it finds: it measures the controller, the
store and the embedded engine, replays policies on the lab's recorded pools, runs a cell of each task live, and holds
the two against each other. Its figures go to `build/benchmarks`; with ``--publish`` everything runs at full length and
replaces the figures under `docs/benchmarks`. The pages of both folders are put together from what is stored there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from orchestrator.bench.report import PUBLISHED
from orchestrator.workers.catalogue import Catalogue

SMOKE = Path("build/benchmarks")
SMOKE_LIMIT_S = 300
PUBLISH_LIMIT_S = 3600
ROWS = Path("build/bench/suite")
"""Rows of jobs, which are run anew each time."""
_OUT = ("--out", "{out}")
_REPORT = ("--baseline", "self_consistency", *_OUT)
POOLS = ("expression-small", "expression-large", "countdown-small", "countdown-large", "sudoku6-small", "sudoku6-large")


@dataclass(frozen=True, slots=True)
class Suite:
    """A module with its arguments for a smoke run and for a full one; ``{out}`` is where figures go."""

    name: str
    module: str
    smoke: tuple[str, ...] = ()
    full: tuple[str, ...] = ()


def suites() -> list[Suite]:
    """Those that can run here, in order."""
    found = [
        Suite("controller", "orchestrator.bench.controller", ("--scale", "0.2", *_OUT), _OUT),
        Suite("store", "orchestrator.bench.store", ("--seconds", "0.5", *_OUT), _OUT),
        Suite(
            "service",
            "orchestrator.bench.service",
            ("--rounds", "1", "--seconds", "1", "--jobs", "300", "--streams", "50", *_OUT),
            _OUT,
        ),
    ]
    has_engine = find_spec("llama_cpp") is not None
    if has_engine:
        found.append(Suite("hosted", "orchestrator.bench.hosted", ("--rounds", "1", *_OUT), _OUT))
        catalogue = Catalogue.from_environment()
        names = ("smollm2-135m", "qwen2.5-coder-0.5b")
        pulled = [str(catalogue.path(name)) for name in names if catalogue.is_pulled(name)]
        if pulled:
            models = tuple(word for path in pulled for word in ("--model", path))
            quick = (*models[:2], "--tokens", "24", "--repetitions", "2")
            found.append(
                Suite("embedded_engine", "orchestrator.bench.embedded_engine", (*quick, *_OUT), (*models, *_OUT))
            )
    return [*found, *_lab_suites(has_engine=has_engine)]


def _lab_suites(*, has_engine: bool) -> list[Suite]:
    command = "orchestrator.api.cli"
    run = ("bench", "run", "--quiet")
    smoke, sanity, live, gsm8k = (str(ROWS / f"{name}.jsonl") for name in ("smoke", "sanity", "live", "gsm8k"))
    found = [
        Suite("replays", command, *(((*run, "smoke", "--out", smoke),) * 2)),
        Suite("oracle", command, (*run, "sanity", "--out", sanity, "--seeds", "1"), (*run, "sanity", "--out", sanity)),
        Suite("policies", command, *((("bench", "report", smoke, "--title", "policies", *_REPORT),) * 2)),
        Suite("gsm8k_replays", command, *(((*run, "gsm8k", "--out", gsm8k),) * 2)),
        Suite("gsm8k", command, *((("bench", "report", gsm8k, "--title", "gsm8k", *_REPORT),) * 2)),
    ]
    if has_engine:
        pools = tuple(f"bench/pools/{name}.pool.xz" for name in POOLS)
        quick = ("--seconds", "0.3", "--repetitions", "1", *_OUT)
        searches = ("--rows", str(ROWS / "kv_sharing.jsonl"), *_OUT)
        found += [
            Suite("lab_speed", "orchestrator.bench.lab.speed", quick, _OUT),
            Suite("kv_sharing", "orchestrator.bench.kv_sharing", ("--problems", "2", *searches), searches),
            Suite("live", command, (*run, "live", "--out", live, "--problems", "40"), (*run, "live", "--out", live)),
            Suite(
                "sanity",
                "orchestrator.bench.sanity",
                *(((smoke, sanity, "--live", live, "--pools", *pools, *_OUT),) * 2),
            ),
        ]
    return found


def run(suite: Suite, *, is_published: bool) -> int:
    """Runs one suite in a process of its own; returns its exit status."""
    folder, arguments = (PUBLISHED, suite.full) if is_published else (SMOKE, suite.smoke)
    words = [word.replace("{out}", str(folder)) for word in arguments]
    limit_s = PUBLISH_LIMIT_S if is_published else SMOKE_LIMIT_S
    print(f"--- {suite.name}", flush=True)
    try:
        command = [sys.executable, "-P", "-m", suite.module, *words]
        return subprocess.run(command, check=False, timeout=limit_s).returncode  # noqa: S603  # our own modules
    except subprocess.TimeoutExpired:
        print(f"{suite.name} took more than {limit_s} s", file=sys.stderr)
        return 1


def assemble(folder: Path) -> str:
    """One page of all pages that have figures beside them, in order of their names."""
    parts = [
        "# Benchmarks",
        "",
        "Put together by `make bench` from the figures stored in this folder; each section says how it was made, on",
        "which machine, and from which commit. The figures of a section as data: the `.json` file of its name.",
        "",
    ]
    for figures in sorted(folder.glob("*.json")):
        own = figures.with_suffix(".md")
        if own.is_file():
            text = own.read_text(encoding="utf-8").strip()
            parts += [("#" + line if line.startswith("#") else line) for line in text.splitlines()] + [""]
    return "\n".join(parts)


def main() -> int:
    """Runs the suites and writes the page; 1 if a suite failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--publish", action="store_true", help="full length, into docs/benchmarks")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these suites")
    parser.add_argument("--only-page", action="store_true", help="run nothing, put the page together")
    options = parser.parse_args()
    if not PUBLISHED.is_dir():
        parser.error(f"run it in the root of the repository; there is no {PUBLISHED} here")
    failed: list[str] = []
    if not options.only_page:
        shutil.rmtree(ROWS, ignore_errors=True)
        chosen = [suite for suite in suites() if not options.only or suite.name in options.only]
        failed = [suite.name for suite in chosen if run(suite, is_published=options.publish)]
    for folder in (SMOKE, PUBLISHED):
        if folder.is_dir():
            (folder / "README.md").write_text(assemble(folder), encoding="utf-8")
            print(f"wrote {folder / 'README.md'}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
