"""The smoke suite, and the page of all stored figures: ``python -m orchestrator.bench``, which ``make bench`` runs.

The smoke suite shows in minutes that every benchmark works and roughly what it finds; its figures go to
`build/benchmarks`. With ``--publish`` the suites run at full length and replace the figures under `docs/benchmarks`.
Either way `docs/benchmarks/README.md` is put together from what is stored there.
"""

from __future__ import annotations

import argparse
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


@dataclass(frozen=True, slots=True)
class Suite:
    """A module of this package, with its arguments for a smoke run and for a full one."""

    name: str
    smoke: tuple[str, ...] = ()
    full: tuple[str, ...] = ()


def suites() -> list[Suite]:
    """Those that can run here."""
    found = [Suite("controller", ("--scale", "0.2")), Suite("store", ("--seconds", "0.5"))]
    if find_spec("llama_cpp") is not None:
        catalogue = Catalogue.from_environment()
        names = ("smollm2-135m", "qwen2.5-coder-0.5b")
        pulled = [str(catalogue.path(name)) for name in names if catalogue.is_pulled(name)]
        if pulled:
            models = tuple(word for path in pulled for word in ("--model", path))
            found.append(Suite("embedded_engine", (*models[:2], "--tokens", "24", "--repetitions", "2"), models))
    return found


def run(suite: Suite, *, is_published: bool) -> int:
    """Runs one suite in a process of its own; returns its exit status."""
    folder, arguments = (PUBLISHED, suite.full) if is_published else (SMOKE, suite.smoke)
    command = [sys.executable, "-m", f"orchestrator.bench.{suite.name}", *arguments, "--out", str(folder)]
    limit_s = PUBLISH_LIMIT_S if is_published else SMOKE_LIMIT_S
    try:
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
    parser.add_argument("--only-page", action="store_true", help="run nothing, put the page together")
    options = parser.parse_args()
    if not PUBLISHED.is_dir():
        parser.error(f"run it in the root of the repository; there is no {PUBLISHED} here")
    failed: list[str] = []
    if not options.only_page:
        failed = [suite.name for suite in suites() if run(suite, is_published=options.publish)]
    (PUBLISHED / "README.md").write_text(assemble(PUBLISHED), encoding="utf-8")
    print(f"wrote {PUBLISHED / 'README.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
