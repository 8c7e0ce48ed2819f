"""Constants of a real system from jobs that it did one at a time: seconds of a step, of a prompt's token, of a call.

Such a job takes e + sum over its steps (a + b n + c x) + d p, with n sequences that read x tokens of context in a step,
and p prompt tokens: linear in the constants, so they are found by least squares (of relative errors, none negative).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import InvalidRequest
from orchestrator.planning.simulation.step_time import Plane, StepTime

_FEWEST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneJob:
    """A job of one call that had the system to itself.

    Attributes:
        prompt_tokens: Read for it, without those that were cached.
        prefix_tokens: The whole prompt's length.
        outputs: Tokens of each of its sequences.
        seconds: From its start to its end.
        cpu_s: Of that, CPU time of the controller.
    """

    prompt_tokens: int
    prefix_tokens: int
    outputs: tuple[int, ...]
    seconds: float
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What was found.

    Attributes:
        step: Time of a step.
        call_s: What a call takes besides its steps and the controller's CPU time.
        job_s, sequence_s: CPU time of the controller for a job, and for each of its sequences.
        error: Root mean square of the fit's relative errors.
        num_jobs: That it was fitted to.
    """

    step: StepTime
    call_s: float
    job_s: float
    sequence_s: float
    error: float
    num_jobs: int


def calibrated(jobs: Sequence[LoneJob], *, num_slots: int) -> Constants:
    """The constants that fit best.

    Args:
        jobs: Of several widths and lengths.
        num_slots: Sequences that the engine decodes at once; wider jobs run in waves.

    Raises:
        InvalidRequest: There are too few jobs to tell the constants apart.
    """
    from scipy.optimize import nnls

    if len(jobs) < _FEWEST or len({len(job.outputs) for job in jobs}) < 2:
        raise InvalidRequest(
            f"constants need at least {_FEWEST} jobs, of at least two widths", field="jobs", value=len(jobs)
        )
    seconds = np.array([job.seconds for job in jobs])
    cpu = np.array([[1.0, len(job.outputs)] for job in jobs])
    cpu_s = np.array([job.cpu_s for job in jobs])
    job_s, sequence_s = map(float, nnls(cpu, cpu_s)[0])
    rows = np.array([_features(job, num_slots) for job in jobs])
    call_s, step_s, token_s, context_s, prompt_s = map(float, nnls(rows / seconds[:, None], np.ones(len(jobs)))[0])
    predicted = rows @ np.array([call_s, step_s, token_s, context_s, prompt_s])
    error = float(np.sqrt(np.mean((predicted / seconds - 1) ** 2)))
    step = StepTime(overhead_s=step_s, compute=Plane(sequence_s=token_s, context_s=context_s, prompt_s=prompt_s))
    return Constants(
        step=step,
        call_s=max(0.0, call_s - job_s - sequence_s),
        job_s=job_s,
        sequence_s=sequence_s,
        error=error,
        num_jobs=len(jobs),
    )


def _features(job: LoneJob, num_slots: int) -> list[float]:
    """(1, steps, sequence-steps, tokens of context read, prompt tokens); a free slot goes to the next sequence."""
    slots = [0] * min(num_slots, len(job.outputs))
    context = 0
    for tokens in job.outputs:
        first = slots.index(min(slots))
        slots[first] += tokens
        context += tokens * job.prefix_tokens + tokens * (tokens - 1) // 2
    return [1.0, float(max(slots)), float(sum(job.outputs)), float(context), float(job.prompt_tokens)]
