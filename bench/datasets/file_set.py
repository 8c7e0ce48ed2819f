"""What all real sets share: problems read from a file, all of them or a seeded random part, with a check of answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.bench.problems import Problem
from orchestrator.errors import InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """A `ProblemSet` from a file.

    Attributes:
        name, answer_kind, max_sample_tokens, problems: As in `ProblemSet`.
        check: Whether an answer to one of `problems` is right.
    """

    name: str
    answer_kind: str
    max_sample_tokens: int
    problems: tuple[Problem, ...]
    check: Callable[[Problem, str], bool]

    def __post_init__(self) -> None:
        id_, times = Counter(problem.id for problem in self.problems).most_common(1)[0]
        if times > 1:
            raise InvalidRequest(f"{self.name}: {times} problems have the id {id_!r}; ids must differ", field="id")

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        """Whether an answer is right; None never is. May take seconds: call it outside the event loop."""
        return answer is not None and self.check(problem, answer)


def chosen(items: Sequence[T], *, count: int | None, seed: int, path: Path) -> list[T]:
    """``count`` random items in their order, all for None; a larger count with the same seed adds to a smaller one's.

    Raises:
        InvalidRequest: There are not as many, or ``count`` is below 1.
    """
    if count is None:
        return list(items)
    if not 1 <= count <= len(items):
        raise InvalidRequest(
            f"count={count} of {path}: it holds {len(items)}; choose 1 to {len(items)}", field="count", value=count
        )
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    return [items[index] for index in sorted(order[:count])]
