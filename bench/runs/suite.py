"""What a suite means: which problems are given to which policies, under which budgets.

Policies, their parameters, verifiers and budgets are checked here, without a model; `orchestrator.bench.runs.scenarios`
opens problems, models and pools.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from orchestrator import registry
from orchestrator.bench.runs.suite_file import (
    ModelNames,
    PolicyEntry,
    SamplingEntry,
    SetEntry,
    SuiteFile,
    read_suite_file,
)
from orchestrator.budget import Budget
from orchestrator.errors import CallerError, InvalidRequest, UnknownName
from orchestrator.policy import PolicySpec
from orchestrator.sampling import Sampling
from orchestrator.verifier import Verifier, open_verifier

SUITES = Path(__file__).parents[1] / "suites"
"""The suites that come with the package, which can be named without their path."""

ORACLE = "oracle"
"""The verifier that looks the answer up: a bound for all others, and none that anybody could use."""

_ROOT = Path(__file__).parents[2]
_T = TypeVar("_T", str, int)

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A policy with all its parameters, under the label by which rows and reports know it.

    Attributes:
        label: Unique in its suite.
        spec: The policy.
        policy: Its name.
        params: Its parameters, ``verifier`` among them.
        verifier: The verifier under the name that `params` has for it; None where that is the oracle, a registered one
            without parameters, or nobody.
        verifier_name: Whom it asks for scores, also where that is its default; None for nobody.
        verifier_needs: What that verifier cannot work without.
        sampling: Overrides the policy's; None to leave it.
    """

    label: str
    spec: PolicySpec
    policy: str
    params: Json = field(default_factory=dict)
    verifier: Verifier | None = None
    verifier_name: str | None = None
    verifier_needs: tuple[str, ...] = ()
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A checked suite.

    Attributes:
        name: As in rows.
        description: For people.
        path: Its file.
        sets: What is asked.
        strategies: Who answers.
        budgets: Caps, by the text that rows and reports show.
        seeds: One job of each problem for each.
        models: Who generates; the command line goes first.
    """

    name: str
    description: str
    path: Path
    sets: tuple[SetEntry, ...]
    strategies: tuple[Strategy, ...]
    budgets: Mapping[str, Budget]
    seeds: tuple[int, ...]
    models: ModelNames

    def file(self, name: str) -> Path:
        """A file that the suite names: as it is, below the suite's folder, or below the repository.

        Raises:
            InvalidRequest: It is in none of these places.
        """
        given = Path(name)
        places = list(dict.fromkeys(base / given for base in (Path(), self.path.parent, _ROOT)))
        for place in places:
            if place.is_file():
                return place
        tried = ", ".join(str(place) for place in places)
        raise InvalidRequest(f"{self.path}: there is no file {name!r} (looked for {tried})", field="pool", value=name)


def suite_names() -> list[str]:
    """The suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def find_suite(name_or_path: str) -> Path:
    """The file of a suite.

    Raises:
        UnknownName: There is no such file, and no suite of that name.
    """
    given = Path(name_or_path)
    if given.suffix == ".toml" and given.is_file():
        return given
    own = SUITES / f"{name_or_path}.toml"
    if given.name == name_or_path and own.is_file():
        return own
    raise UnknownName(kind="suite", name=name_or_path, known=suite_names(), hint="or name a .toml file")


def read_suite(path: Path) -> Suite:
    """A suite from its file.

    Raises:
        InvalidRequest: The file cannot be read, or a key or its value cannot be used; names file and key.
    """
    content = read_suite_file(path)
    return Suite(
        name=content.name,
        description=content.description,
        path=path,
        sets=tuple(content.sets),
        strategies=_strategies(path, content),
        budgets=_budgets(path, content.budgets),
        seeds=_distinct(path, "seeds", content.seeds),
        models=content.models,
    )


def _budgets(path: Path, texts: Sequence[str]) -> dict[str, Budget]:
    budgets: dict[str, Budget] = {}
    for index, text in enumerate(_distinct(path, "budgets", texts)):
        try:
            budgets[text] = Budget.parse(text)
        except CallerError as error:
            raise _at(path, f"budgets[{index}]", error) from None
    return budgets


def _distinct(path: Path, key: str, values: Sequence[_T]) -> tuple[_T, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            where = f"{key}[{index}]"
            raise InvalidRequest(f"{path}: {where} = {value!r} is there already", field=where, value=value)
    return tuple(values)


def _strategies(path: Path, content: SuiteFile) -> tuple[Strategy, ...]:
    strategies: dict[str, Strategy] = {}
    for index, entry in enumerate(content.policies):
        where = f"policies[{index}]"
        try:
            found = list(_strategies_of(entry, content.sampling))
        except CallerError as error:
            raise _at(path, where, error, words=f" ({entry.policy})") from None
        for strategy in found:
            if strategy.label in strategies:
                raise InvalidRequest(
                    f"{path}: {where} has the label {strategy.label!r}, which is taken; give it a label of its own",
                    field=f"{where}.label",
                    value=strategy.label,
                )
            strategies[strategy.label] = strategy
    return tuple(strategies.values())


def _strategies_of(entry: PolicyEntry, sampling: SamplingEntry | None) -> Iterator[Strategy]:
    """One strategy, or one for each combination of the grid."""
    for name in entry.grid:
        if name in entry.params:
            raise InvalidRequest(f"{name} is both in params and in grid; remove one", field=f"grid.{name}")
    spec, sampling = registry.load_policy(entry.policy), entry.sampling or sampling
    for values in itertools.product(*entry.grid.values()):
        varied = dict(zip(entry.grid, values, strict=True))
        params = _with_verifier(spec, entry, entry.params | varied)
        asked = getattr(spec.params(params), "verifier", None)
        asked = asked if isinstance(asked, str) else None
        opened = None if asked is None else _opened(entry, asked)
        yield Strategy(
            label=_shown(entry.policy, params) if entry.label is None else _shown(entry.label, varied),
            spec=spec,
            policy=entry.policy,
            params=params,
            verifier=opened if entry.verifier_params else None,
            verifier_name=asked,
            verifier_needs=tuple(getattr(opened, "needs", ())),
            sampling=None if sampling is None else sampling.sampling,
        )


def _with_verifier(spec: PolicySpec, entry: PolicyEntry, params: Json) -> Json:
    """The parameters with the name of the verifier that the entry names."""
    if entry.verifier is None:
        if entry.verifier_params:
            raise InvalidRequest("verifier_params needs verifier, the name of one", field="verifier_params")
        return params
    if "verifier" in params:
        raise InvalidRequest("verifier and params.verifier contradict each other; remove one", field="verifier")
    if "verifier" not in spec.params_type.model_fields:
        able = [name for name in registry.names("policy") if _takes_verifier(name)]
        raise InvalidRequest(
            f"it uses no verifier; policies that do: {', '.join(able)}", field="verifier", value=entry.verifier
        )
    return params | {"verifier": _shown(entry.verifier, entry.verifier_params)}


def _takes_verifier(policy: str) -> bool:
    return "verifier" in registry.load_policy(policy).params_type.model_fields


def _opened(entry: PolicyEntry, name: str) -> Verifier | None:
    """The registered verifier that is meant; None for the oracle, which is made for each set of problems."""
    registered = entry.verifier or name
    if registered != ORACLE:
        return open_verifier(registered, **entry.verifier_params)
    if entry.verifier_params:
        raise InvalidRequest("the oracle has no parameters", field="verifier_params")
    return None


def _shown(name: str, params: Mapping[str, Any]) -> str:  # Any: JSON values
    """``best_of_n(n=8, verifier=oracle)``."""
    if not params:
        return name
    values = (
        f"{key}={value if isinstance(value, str) else json.dumps(value, default=str)}" for key, value in params.items()
    )
    return f"{name}({', '.join(values)})"


def _at(path: Path, where: str, error: CallerError, *, words: str = "") -> InvalidRequest:
    """The error, told with where in the suite it is."""
    return InvalidRequest(f"{path}: {where}{words}: {error}", field=f"{where}.{getattr(error, 'field', 'name')}")
