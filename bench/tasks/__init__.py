"""Tasks with a complexity dial whose answers and steps can be checked exactly."""

from orchestrator.bench.tasks.countdown import Countdown
from orchestrator.bench.tasks.expression import Expression
from orchestrator.bench.tasks.sudoku6 import Sudoku6
from orchestrator.bench.tasks.task import Example, Split, Task, draw, draw_distinct, is_solved, split_of, steps_of

TASKS: dict[str, Task] = {task.name: task for task in (Expression(), Countdown(), Sudoku6())}
"""All tasks by name."""

__all__ = [
    "TASKS",
    "Countdown",
    "Example",
    "Expression",
    "Split",
    "Sudoku6",
    "Task",
    "draw",
    "draw_distinct",
    "is_solved",
    "split_of",
    "steps_of",
]
