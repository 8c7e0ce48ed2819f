"""Rewards as good as one likes: the lab's checkers, blurred, in place of a reward model.

They tell what a search would be worth with a better reward model than the lab has; no model can play them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from statistics import NormalDist

from orchestrator.bench.tasks import TASKS, Task, steps_of
from orchestrator.verifier import Candidate


def noisy_checker(auc: float, *, seed: int = 0) -> Callable[[Candidate], Awaitable[float]]:
    """A verifier that tells steps from which a right answer can be reached from others with a given AUC.

    Good and bad steps give normal variables with means d/2 and -d/2 and variance 1, so that AUC = Phi(d / sqrt(2)); the
    reward is the probability of a good step given the variable, at even odds. Equal texts have equal rewards.

    Args:
        auc: Above 0.5 and below 1.
        seed: Other seeds make other mistakes.

    Raises:
        ValueError: There is no such AUC, or (when called) the problem is none of the lab's.
    """
    if not 0.5 < auc < 1:
        raise ValueError(f"an AUC must be above 0.5 and below 1, not {auc}")
    distance = math.sqrt(2) * NormalDist().inv_cdf(auc)

    async def reward(candidate: Candidate) -> float:
        task = _task_of(candidate.problem)
        is_good = task.can_finish(candidate.problem, steps_of(candidate.text))
        noise = random.Random(f"{seed}/{candidate.problem}/{candidate.text}").gauss(0.0, 1.0)
        seen = noise + (distance if is_good else -distance) / 2
        return 1 / (1 + math.exp(-distance * seen))

    return reward


def _task_of(problem: str) -> Task:
    for task in TASKS.values():
        try:
            task.canonical(problem)
        except ValueError:
            continue
        return task
    raise ValueError(f"no problem of the lab: {problem[:80]!r}")
