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
    _limit(job["timeout_s"], job["memory_bytes"], job["file_bytes"])
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


def _limit(timeout_s: float, memory_bytes: int, file_bytes: int) -> None:
    """The wall-clock alarm is for a parent that has died; a living one kills earlier."""
    seconds = math.ceil(timeout_s)
    limits = (
        (resource.RLIMIT_CPU, seconds + 1),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    )
    for name, value in limits:
        _, highest = resource.getrlimit(name)
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(name, (value, value))
    signal.alarm(seconds + 5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
