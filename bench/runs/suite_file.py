"""The form of a suite's TOML file; what its parts mean is `orchestrator.bench.runs.suite`'s business."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.bench.tasks.task import Split
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling

_Text = Annotated[str, Field(min_length=1)]
_Value = str | int | float | bool | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelNames(_Part):
    """Models by role, as ``ttc solve`` takes them; ``pool:FILE`` stands for recorded samples of one."""

    small: _Text | None = Field(None, description="Solves")
    large: _Text | None = Field(None, description="Solves what is hard, for policies that escalate")
    verifier: _Text | None = Field(None, description="Scores; for a pool also the name of scores it holds")

    def under(self, other: ModelNames) -> ModelNames:
        """These, where ``other`` names none."""
        return ModelNames(
            small=other.small or self.small, large=other.large or self.large, verifier=other.verifier or self.verifier
        )


class SetEntry(_Part):
    """Problems that are asked."""

    set: _Text | None = Field(None, description="As `orchestrator.bench.sets.open_set` takes it: expression@6, ...")
    pool: _Text | None = Field(None, description="A recorded pool: its problems, and its samples instead of a model's")
    large: _Text | None = Field(
        None, description="The large model for these problems; if a pool, those that both hold are asked"
    )
    count: int | None = Field(None, ge=1, description="So many problems, the first ones; all if left out")
    seed: int = Field(0, ge=0, description="Of the problems, where they are drawn")
    split: Split = Field("test", description="Of the lab's tasks")

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.set is None) == (self.pool is None):
            raise ValueError("name either a set or a pool")
        return self

    @property
    def text(self) -> str:
        """The set or the pool as the suite names it."""
        return self.set or self.pool or ""


class SamplingEntry(_Part):
    """How tokens are chosen, in place of what policies would do by themselves."""

    temperature: float = Field(1.0, ge=0, le=5)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, lt=1)

    @property
    def sampling(self) -> Sampling:
        """The same for engines."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


class PolicyEntry(_Part):
    """A policy, or several that differ in a parameter."""

    policy: _Text
    label: _Text | None = Field(None, description="As reports show it; by default the policy with its parameters")
    params: dict[str, Any] = Field(default_factory=dict)  # Any: each policy names the types of its own
    grid: dict[str, Annotated[list[_Value], Field(min_length=1)]] = Field(
        default_factory=dict, description="Lists of values; each combination of them is one more policy"
    )
    verifier: _Text | None = Field(None, description="Who scores: a registered verifier, or oracle")
    verifier_params: dict[str, Any] = Field(default_factory=dict)  # Any: as for `params`
    sampling: SamplingEntry | None = None


class SuiteFile(_Part):
    """The whole file."""

    name: _Text
    description: str = ""
    sets: list[SetEntry] = Field(min_length=1)
    policies: list[PolicyEntry] = Field(min_length=1)
    budgets: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field([1], min_length=1)
    models: ModelNames = ModelNames()
    sampling: SamplingEntry | None = None


_PARTS: dict[tuple[str, ...], type[BaseModel]] = {
    (): SuiteFile,
    ("sets",): SetEntry,
    ("policies",): PolicyEntry,
    ("policies", "sampling"): SamplingEntry,
    ("models",): ModelNames,
    ("sampling",): SamplingEntry,
}


def read_suite_file(path: Path) -> SuiteFile:
    """What a suite's file says.

    Raises:
        InvalidRequest: The file cannot be read, or a key or its value cannot be used; names file and key.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}", field="suite", value=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}", field="suite", value=str(path)) from None
    try:
        return SuiteFile.model_validate(data)
    except ValidationError as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: ValidationError) -> InvalidRequest:
    problem = error.errors()[0]
    key = _key(problem["loc"])
    if problem["type"] == "extra_forbidden":
        part = _PARTS.get(tuple(name for name in problem["loc"][:-1] if isinstance(name, str)))
        known = f"; known: {', '.join(part.model_fields)}" if part is not None else ""
        return InvalidRequest(f"{path}: there is no key {key}{known}", field=key)
    if problem["type"] == "missing":
        return InvalidRequest(f"{path}: the key {key} is missing", field=key)
    reason = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    shown = "" if isinstance(value, dict | list) else f" = {value!r:.80}"
    return InvalidRequest(f"{path}: {key}{shown} cannot be used: {reason}", field=key, value=repr(value))


def _key(location: Sequence[int | str]) -> str:
    """``sets[0].count`` and the like."""
    key = ""
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key or "the suite"
