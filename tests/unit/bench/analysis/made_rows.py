"""Rows of benchmarks, made by hand or drawn from a model of how policies behave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from orchestrator.bench.runs.rows import Row

BUDGETS = (500, 1000, 2000, 4000)


def a_row(problem: str = "p0", *, label: str = "single", is_correct: bool = True, **fields: Any) -> Row:
    """A job that used 100 prompt tokens and 200 output tokens, unless told otherwise."""
    given = {
        "suite": "s",
        "set": "expression@6",
        "model": "small",
        "budget": "tokens=1000",
        "seed": 0,
        "policy": label.partition("(")[0],
        "stop_reason": "completed",
        "num_samples": 4,
        "latency_s": 0.5,
        "usage": {"prompt_tokens": 100, "output_tokens": 200},
    }
    return Row.model_validate({**given, "problem": problem, "label": label, "is_correct": is_correct, **fields})


def drawn_rows(
    prices: Mapping[str, float], *, num_problems: int = 120, num_seeds: int = 2, seed: int = 0, **fields: Any
) -> list[Row]:
    """Policies that are equally often right for equal work, at prices of their own.

    Args:
        prices: By label, the tokens that a unit of work costs, relative to the budget.
        num_problems: Of differing difficulty.
        num_seeds: Jobs of each problem in each cell.
        seed: Of the draw.
        fields: Of all rows.
    """
    rng = np.random.default_rng(seed)
    difficulties = rng.beta(1.0, 1.0, num_problems)
    rows = []
    for label, price in prices.items():
        for budget in BUDGETS:
            chances = 1 - (1 - 0.6 * difficulties) ** (budget / 500)
            for problem, chance in enumerate(chances):
                for run in range(num_seeds):
                    tokens = int(price * budget * rng.lognormal(0.0, 0.1))
                    usage = {"prompt_tokens": 100, "output_tokens": tokens, "effective_flops": tokens * 1000}
                    row = a_row(
                        f"p{problem}",
                        label=label,
                        is_correct=bool(rng.random() < chance),
                        **{"budget": f"tokens={budget}", "seed": run, "usage": usage, **fields},
                    )
                    rows.append(row)
    return rows
