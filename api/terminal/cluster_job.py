"""What runs on the cluster for ``ttc submit``: a batch like that of ``ttc solve``, with results in the job's log."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.api.terminal.asking import Asking
from orchestrator.api.terminal.batch import Batch, Tally
from orchestrator.api.terminal.job_log import JobLogWriter
from orchestrator.api.terminal.options import ModelChoice
from orchestrator.api.terminal.problems import Problem, read_problems
from orchestrator.api.terminal.shutdown import stopping_gently
from orchestrator.config import Settings, read_settings
from orchestrator.errors import InvalidRequest, TtcError, mapping_of
from orchestrator.fleet_file import FleetFile

ORDER_FILE = "job.json"
PROBLEMS_FILE = "problems.jsonl"
FLEET_FILE = "fleet.toml"

HERE = "auto"
"""The cluster that a job runs on, as Ray's processes call it."""


class Order(BaseModel):
    """What a job is to do; it travels as `ORDER_FILE` beside the problems.

    Attributes:
        job_id: The job's.
        distribution: Version of ttc-orchestrator that submitted it.
        problems: File, in the working folder or anywhere that the cluster's machines can read.
        done: Problems of the file to leave out, by id.
        asking: How to solve: the options of `Asking.of_options` as they were given.
        model: As ``--model``; the others likewise.
        large: Large model.
        verifier_model: Model that judges.
        embedder: Model that tells steps apart.
        has_fleet: Whether `FLEET_FILE` is there.
        store: Where journals are kept; in memory only by default.
        concurrency: Problems under way at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    distribution: str
    problems: str
    done: tuple[str, ...] = ()
    asking: dict[str, Any]  # Any: JSON values
    model: str | None = None
    large: str | None = None
    verifier_model: str | None = None
    embedder: str | None = None
    has_fleet: bool = False
    store: str = "memory:"
    concurrency: int

    def choice(self) -> ModelChoice:
        """The models that were named, for a process in the working folder."""
        fleet = FLEET_FILE if self.has_fleet else None
        choice = ModelChoice.of_options(self.model, self.large, self.verifier_model, self.embedder, fleet=fleet)
        return choice if choice.fleet is None else replace(choice, fleet=fleet_here(choice.fleet))


def run_job(file: str, *, fd: int = 1) -> int:
    """Does what an order says.

    Args:
        file: The order.
        fd: Is given the records; the output of this process is the job's log.

    Returns:
        The exit code: 0 if every problem has a row, with an answer or without; by the table of errors if it could not
        be done; 128 and the number of the signal that ended it.

    Raises:
        InvalidRequest: The order cannot be read.
    """
    order = read_order(Path(file))
    log = JobLogWriter(order.job_id, fd=fd)
    try:
        _check_version(order)
        code = asyncio.run(_run(order, log))
    except (TtcError, BaseExceptionGroup) as raised:
        error = _ours(raised)
        log.write_record("error", error=error.fields())
        return mapping_of(error).exit_code
    if code == 0:
        log.write_record("end")
    return code


def read_order(path: Path) -> Order:
    """The order in a file.

    Raises:
        InvalidRequest: It cannot be read.
    """
    try:
        return Order.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidRequest(f"cannot read the order {str(path)!r}: {error}", field="job", value=str(path)) from error


def _check_version(order: Order) -> None:
    """Results of two versions are not to be mixed.

    Raises:
        InvalidRequest: The order is of another version of this distribution.
    """
    if (here := version("ttc-orchestrator")) != order.distribution:
        raise InvalidRequest(
            f"the cluster has ttc-orchestrator {here}, and version {order.distribution} submitted the job; install one "
            "version on both (setup_commands of ray_cluster.yaml)",
            field="distribution",
            value=order.distribution,
        )


def fleet_here(fleet: FleetFile) -> FleetFile:
    """The fleet as a job sees it, which runs on its cluster."""
    if not fleet.has_cluster:
        return fleet
    return fleet.model_copy(update={"cluster": fleet.cluster.model_copy(update={"ray": HERE})})


def usable_problems(file: str | None) -> list[Problem]:
    """The problems of a file, every line of which can be used.

    Raises:
        InvalidRequest: A line cannot; the message names it.
    """
    problems = read_problems(file)
    for problem in problems:
        if problem.error is not None:
            raise problem.error
    return problems


async def _run(order: Order, log: JobLogWriter) -> int:
    settings = read_settings()
    asking = Asking.of_options(settings=settings, **order.asking)
    done = frozenset(order.done)
    problems = [problem for problem in usable_problems(order.problems) if problem.id not in done]
    log.write_record("start", num_problems=len(problems), distribution=order.distribution)
    if not problems:
        return 0
    async with AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(_orchestrator(order, settings))
        batch = Batch(orchestrator, asking, log, Tally(len(problems)), concurrency=order.concurrency)
        with stopping_gently(batch.stop) as interruption:
            log.write_record("ready")
            await batch.run(problems)
    return interruption.exit_code or 0


def _orchestrator(order: Order, settings: Settings) -> Any:  # Any: its type is not imported before it is needed
    from orchestrator.api.terminal.pulling import pull_missing
    from orchestrator.in_process import Orchestrator

    choice = order.choice()
    pull_missing(choice.names(settings), is_quiet=True)
    return Orchestrator(**choice.arguments(), store=order.store, settings=settings)


def _ours(raised: TtcError | BaseExceptionGroup) -> TtcError:
    """The error of ours that was raised, maybe by tasks.

    Raises:
        BaseException: There is none: it is a bug, and its stack trace belongs into the job's log.
    """
    if isinstance(raised, TtcError):
        return raised
    found: BaseException = raised.split(TtcError)[0] or raised
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if not isinstance(found, TtcError):
        raise found
    return found
