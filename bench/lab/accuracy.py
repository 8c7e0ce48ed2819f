"""How often a model in PyTorch solves dev problems, by task and complexity: pass@1 and pass@k."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from orchestrator.bench.lab.generation import sample
from orchestrator.bench.lab.model import Llama
from orchestrator.bench.lab.tokenizer import decode, prompt_ids
from orchestrator.bench.tasks import TASKS, draw_distinct, is_solved

Grid = Mapping[str, Sequence[int]]
"""Complexities by task."""

FULL: Grid = {name: task.complexities for name, task in TASKS.items()}
QUICK: Grid = {"expression": (2, 4, 6, 10), "countdown": (1, 2, 4, 6), "sudoku6": (4, 8, 12, 16)}


def accuracy(
    model: Llama, grid: Grid, *, num_problems: int, num_samples: int, temperature: float, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """By task and complexity: how many dev problems, pass@1, and pass@``num_samples``."""
    cells: list[tuple[str, int, list[str]]] = []
    for name, complexities in grid.items():
        for complexity in complexities:
            rng = random.Random(f"{seed}/{name}/{complexity}")
            cells.append((name, complexity, draw_distinct(TASKS[name], rng, complexity, "dev", num_problems)))
    prompts = [prompt_ids(problem) for _, _, problems in cells for problem in problems for _ in range(num_samples)]
    texts = iter(sample(model, prompts, temperature=temperature, seed=seed))
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, complexity, problems in cells:
        rights = [
            sum(is_solved(TASKS[name], problem, decode(next(texts))) for _ in range(num_samples))
            for problem in problems
        ]
        count = max(len(rights), 1)
        result.setdefault(name, {})[str(complexity)] = {
            "problems": len(rights),
            "pass@1": round(sum(rights) / num_samples / count, 4),
            f"pass@{num_samples}": round(sum(right > 0 for right in rights) / count, 4),
        }
    return result


def brief(result: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Pass@1 in one line."""
    return "; ".join(
        f"{name} " + " ".join(f"{complexity}:{cell['pass@1']:.2f}" for complexity, cell in cells.items())
        for name, cells in result.items()
    )
