"""The line that a benchmark writes for every job, and files of such lines, which can be added to after a crash."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import InvalidRequest

_SETTING = re.compile(r"(?P<label>.+)\(\w+=(?P<value>[^()=]+)\)")


class Row(BaseModel):
    """One job of a benchmark; `key` says which one, everything else what came of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    suite: str = Field(description="Name of the suite")
    set: str = Field(description="Name of the problem set")
    problem: str = Field(description="Id of the problem within its set")
    label: str = Field(description="Name of the policy with its parameters, as reports show it")
    model: str = Field(description="Name of the small model, or of the pool")
    budget: str = Field(description="Caps in the command line's form; empty for none")
    seed: int
    policy: str
    params: dict[str, Any] = Field(default_factory=dict)  # Any: each policy names the types of its own
    answer: str | None = None
    is_correct: bool = False
    confidence: float | None = None
    stop_reason: str = ""
    limited_by: str | None = None
    num_samples: int = 0
    usage: dict[str, Any] = Field(default_factory=dict, description="`Usage.to_json`")  # Any: JSON values
    latency_s: float = 0.0
    is_replayed: bool = Field(default=False, description="Drawn from a pool; wall-clock times then mean nothing")
    error: str | None = Field(default=None, description="What went wrong, for a job that failed; it counts as wrong")

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for two rows of the same job; a finished key is not run again."""
        return (self.suite, self.set, self.problem, self.label, self.model, self.budget, str(self.seed))


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, which may be compressed (``.xz``); a last line that a crash cut off is left out.

    Raises:
        InvalidRequest: Another line is no row.
    """
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield Row.model_validate_json(line)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise InvalidRequest(
                    f"{path}, line {number}, is no row of a benchmark: {reason}", field="rows"
                ) from None


def by_curves(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with a grid's setting in place of a budget: ``rebase(width=8)`` becomes ``rebase`` at ``setting 8``.

    So the settings of a policy are points of one curve, and equal settings of two policies are compared.
    """
    for row in rows:
        match = _SETTING.fullmatch(row.label)
        yield (
            row
            if match is None
            else row.model_copy(update={"label": match["label"], "budget": f"setting {match['value']}"})
        )


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows in one write; what a crash left of a line is cut off first."""
    text = "".join(json.dumps(row.model_dump(exclude_defaults=True), ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        size = file.seek(0, 2)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())
        file.flush()
