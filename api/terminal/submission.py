"""A batch on a cluster, from the machine that submits it: what is sent, what comes back, and how it goes on later.

Results go to a file here as they come. Beside it, in ``FILE.job``, stands which job feeds it, written before the job is
started: another submission of the same batch takes what that job has found, follows it if it runs, and only then starts
a job for what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from orchestrator.api.terminal.cluster_job import FLEET_FILE, ORDER_FILE, PROBLEMS_FILE, Order
from orchestrator.api.terminal.problems import Problem
from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.workers.ray.jobs import NewJob

MADE_BY = "ttc submit"
"""Metadata ``made_by`` of our jobs."""
STOP_WAIT_S = 30
"""A job that is stopped has so long to end what it does."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is to be run.

    Attributes:
        file: As named.
        problems: None for a file that is read on the cluster.
        order: What the job is told, without its id and without what is done already.
        fleet: Text of the fleet file, if one was named.
        env: Variables for the job.
        cpus: Set aside for its process.
        gpus: Set aside for its process.
    """

    file: str
    problems: Sequence[Problem] | None
    order: Json
    fleet: str | None
    env: dict[str, str]
    cpus: float = 0.0
    gpus: float = 0.0

    @property
    def digest(self) -> str:
        """Same for batches that ask in the same way; of which problems, the rows say."""
        asked = {name: value for name, value in self.order.items() if name not in {"concurrency", "store"}}
        text = json.dumps([asked, self.fleet], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def missing(self, done: frozenset[str]) -> list[Problem] | None:
        """Problems without a row; None if they are not known here."""
        if self.problems is None:
            return None
        return [problem for problem in self.problems if problem.id not in done]

    def package(self, job_id: str, done: frozenset[str]) -> bytes:
        """The job's working folder, a zip archive; the same for the same content.

        Lines keep their numbers: a problem that is done leaves an empty one.
        """
        is_sent = self.problems is not None
        order = Order.model_validate(
            {
                **self.order,
                "job_id": job_id,
                "distribution": version("ttc-orchestrator"),
                "problems": PROBLEMS_FILE if is_sent else self.file,
                "done": () if is_sent else sorted(done),
                "has_fleet": self.fleet is not None,
            }
        )
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", compression=zipfile.ZIP_DEFLATED) as files:
            _add(files, ORDER_FILE, order.model_dump_json().encode())
            if self.problems is not None:
                _add(files, PROBLEMS_FILE, _lines(self.problems, done))
            if self.fleet is not None:
                _add(files, FLEET_FILE, self.fleet.encode())
        return archive.getvalue()

    def job(self, job_id: str, working_dir: str, num_problems: int | None) -> NewJob:
        """The job that runs it.

        Args:
            job_id: A new one.
            working_dir: The package, as it was sent.
            num_problems: How many it is to solve, if that is known here.
        """
        return NewJob(
            id=job_id,
            entrypoint=f"ttc submit --job {ORDER_FILE}",
            working_dir=working_dir,
            env={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **self.env},
            metadata={
                "made_by": MADE_BY,
                "file": self.file,
                "num_problems": "" if num_problems is None else str(num_problems),
            },
            cpus=self.cpus,
            gpus=self.gpus,
        )


def _add(files: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=_ZIP_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    files.writestr(entry, data)


def _lines(problems: Sequence[Problem], done: frozenset[str]) -> bytes:
    lines, number = [], 0
    for problem in problems:
        lines += [b""] * (problem.line - number - 1)
        lines.append(b"" if problem.id in done else json.dumps(problem.row).encode())
        number = problem.line
    return b"\n".join(lines) + b"\n"


def new_job_id() -> str:
    """One that no other job has, and nobody can guess: by it, records in a log are known from other text."""
    return f"ttc-{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Feeding:
    """Which job feeds a file of results.

    Attributes:
        job_id: The job.
        address: Of its cluster.
        digest: Of the batch that it runs (`Batch.digest`).
    """

    job_id: str
    address: str
    digest: str

    @classmethod
    def of(cls, out: Path) -> Self | None:
        """What stands beside a file of results; None if nothing does.

        Raises:
            InvalidRequest: It cannot be read.
        """
        path = _beside(out)
        try:
            found = json.loads(path.read_bytes())
            return cls(str(found["job_id"]), str(found["address"]), str(found["digest"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InvalidRequest(
                f"cannot read {str(path)!r}, which says which job feeds --out: {error}; remove it to start anew",
                field="out",
                value=str(out),
            ) from error

    def write_beside(self, out: Path) -> None:
        """Says it to whoever comes later; whole or not at all.

        Raises:
            StoreFailed: It cannot be written.
        """
        path = _beside(out)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        text = json.dumps({"job_id": self.job_id, "address": self.address, "digest": self.digest}) + "\n"
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StoreFailed(f"cannot write {str(path)!r}: {error.strerror}", path=str(path)) from error


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.job")
