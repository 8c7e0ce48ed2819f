"""The other side of `program_running`: runs a program under limits and says so if it gets to its end.

Run as a script in a folder of its own (never as part of the package). ``job.json`` beside that folder has the parts of
the program, the limits, and a word that is written to ``result.json`` once all parts have run.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from pathlib import Path
from typing import Any


def main(job_path: Path, result_path: Path) -> None:
    """Runs the parts one after the other in one namespace."""
    job: dict[str, Any] = json.loads(job_path.read_text(encoding="utf-8"))  # Any: JSON values
    job_path.unlink()
    _limit(job["cpu_s"], job["timeout_s"], job["memory_bytes"], job["file_bytes"])
    sys.argv[1:] = []
    namespace = {"__name__": "program"}
    try:
        for number, part in enumerate(job["parts"], 1):
            exec(compile(part, f"part {number}", "exec", dont_inherit=True), namespace)  # noqa: S102  # what this is for
    except BaseException as error:  # noqa: BLE001  # whatever the program raises, it has failed
        result = {"word": "", "error": f"{type(error).__name__}: {error}"[:500]}
    else:
        result = {"word": job["word"], "error": ""}
    result_path.write_text(json.dumps(result), encoding="utf-8")


def _limit(cpu_s: int, timeout_s: float, memory_bytes: int, file_bytes: int) -> None:
    """The alarm is for a parent that has died; a living one kills earlier."""
    _set_limit(resource.RLIMIT_CPU, cpu_s, margin=1)  # at the limit SIGXCPU, which tells the parent why; then SIGKILL
    _set_limit(resource.RLIMIT_AS, memory_bytes)
    _set_limit(resource.RLIMIT_FSIZE, file_bytes)
    _set_limit(resource.RLIMIT_NPROC, 0)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_NOFILE, 64)
    signal.alarm(math.ceil(timeout_s) + 5)


def _set_limit(name: int, value: int, *, margin: int = 0) -> None:
    _, highest = resource.getrlimit(name)
    if highest == resource.RLIM_INFINITY:
        highest = value + margin
    resource.setrlimit(name, (min(value, highest), min(value + margin, highest)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
