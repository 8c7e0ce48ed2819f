"""Opens what a suite names: problems, recorded pools, and who generates and scores for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.bench.lab_set import lab_checker
from orchestrator.bench.problems import Problem, ProblemSet
from orchestrator.bench.runs.suite import Strategy, Suite
from orchestrator.bench.runs.suite_file import ModelNames, SetEntry
from orchestrator.budget import Budget
from orchestrator.config import Settings
from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling

if TYPE_CHECKING:
    from orchestrator.bench.recorded.records import Pool

POOL = "pool:"
"""Before a file, where a recorded pool stands in for a model."""
DATA = "{data}"
"""In the names of sets, pools and models: the folder of datasets, which the command line names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A set of problems with the models that work on it.

    Attributes:
        problem_set: Asks and checks.
        problems: Those of it that are asked.
        models: By role: names to be opened, or engines that are there.
        model: The small one's name, as in rows.
        is_replayed: Samples come from a pool.
        has_quick_check: Whether an answer is checked in much less than a millisecond.
        sampling: Of the pool; None for a live model.
        max_sample_tokens: Most tokens per sample.
    """

    problem_set: ProblemSet
    problems: tuple[Problem, ...]
    models: Mapping[str, str | Engine]
    model: str
    is_replayed: bool = False
    has_quick_check: bool = False
    sampling: Sampling | None = None
    max_sample_tokens: int = 1024

    def obstacle(self, strategy: Strategy, budget: Budget) -> str | None:
        """Why the strategy cannot be measured here, as far as that is known beforehand; None if it can."""
        if "large" in strategy.spec.roles and "large" not in self.models:
            return "there is no large model; name one with --large, or in the suite"
        if not self.is_replayed:
            return None
        if strategy.sampling is not None and strategy.sampling != self.sampling:
            return f"it wants {strategy.sampling}, the pool was drawn with {self.sampling}"
        if strategy.verifier_needs and "verifier" not in self.models:
            return f"{strategy.verifier_name} needs {', '.join(strategy.verifier_needs)}, and the pool holds no scores"
        if budget.max_seconds is not None:
            return "a cap on seconds means nothing for recorded samples"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line says about a suite's sets and models.

    Attributes:
        models: In place of the suite's.
        pools: In place of the suite's sets.
        sets: Only sets whose name holds one of these.
        data: The folder of datasets.
        num_problems: Most problems of each set.
    """

    models: ModelNames = field(default_factory=ModelNames)
    pools: Sequence[str] = ()
    sets: Sequence[str] = ()
    data: Path | None = None
    num_problems: int | None = None


def open_scenarios(suite: Suite, wish: Wish, settings: Settings) -> list[Scenario]:
    """One scenario for each set of a suite; live models are named in it, not opened.

    Raises:
        InvalidRequest: A file is missing or broken, there is no such set, or two are the same.
    """
    entries = [SetEntry(pool=path) for path in wish.pools] or list(suite.sets)
    chosen = [entry for entry in entries if not wish.sets or any(part in entry.text for part in wish.sets)]
    if not chosen:
        known = ", ".join(entry.text for entry in entries)
        raise InvalidRequest(f"no set of {suite.name} is like {', '.join(wish.sets)}; it has: {known}", field="set")
    opener = _Opener(suite, wish, settings)
    scenarios: dict[tuple[str, str], Scenario] = {}
    for entry in chosen:
        scenario = opener.scenario(entry)
        key = scenario.problem_set.name, scenario.model
        if key in scenarios:
            raise InvalidRequest(f"{suite.path}: the set {key[0]!r} is there twice with {key[1]!r}", field="sets")
        scenarios[key] = scenario
    return list(scenarios.values())


@dataclass(slots=True)
class _Opener:
    suite: Suite
    wish: Wish
    settings: Settings
    models: ModelNames = field(init=False)
    _pools: dict[Path, Pool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.models = self.suite.models.under(self.wish.models)

    def scenario(self, entry: SetEntry) -> Scenario:
        if entry.pool is not None and self.wish.models.small is not None:
            raise InvalidRequest(
                f"{self.suite.path}: the set {entry.pool!r} is a recorded pool, so --model would do nothing; "
                "leave it away, or write a suite with the set itself",
                field="model",
                value=self.wish.models.small,
            )
        small = self._filled(self.models.small or self.settings.model)
        if entry.pool is not None:
            small = POOL + self._filled(entry.pool)
        real = None if entry.set is None else self._problem_set(entry, self._filled(entry.set))
        others = {"large": self.wish.models.large or entry.large or self.models.large, "verifier": self.models.verifier}
        named = {role: self._filled(name) for role, name in others.items() if name is not None}
        if small.startswith(POOL):
            return self._replayed(entry, small, named, real)
        assert real is not None, "an entry names a pool or a set"
        return Scenario(
            problem_set=real,
            problems=self._first(real.problems, entry),
            models={"small": small} | {role: self._model(name) for role, name in named.items()},
            model=_short(small),
            has_quick_check=_is_lab_task(entry),
            max_sample_tokens=real.max_sample_tokens,
        )

    def _replayed(self, entry: SetEntry, small: str, named: Mapping[str, str], real: ProblemSet | None) -> Scenario:
        from orchestrator.bench.recorded.engine import PoolEngine, PoolScorer, PoolSet

        pool = self._pool(self._file(small))
        models: dict[str, str | Engine] = {"small": PoolEngine(pool)}
        if "large" in named:
            models["large"] = self._model(named["large"])
        scorers = list(pool.header.scorers)
        verifier = named.get("verifier")
        if verifier is not None and verifier not in scorers:
            models["verifier"] = self._model(verifier)
        elif scorers:
            models["verifier"] = PoolScorer(pool, verifier or scorers[0])
        partners = [self._pool(self._file(name)) for name in named.values() if name.startswith(POOL)]
        problem_set = PoolSet(pool, real or lab_checker(pool.header.set), others=partners)
        common = {
            recorded.id
            for recorded in pool.problems.values()
            if all(other.problem_of(recorded.messages) for other in partners)
        }
        shared = [problem for problem in problem_set.problems if problem.id in common]
        if not shared:
            raise InvalidRequest(
                f"{self.suite.path}: {entry.text!r} has no problem in common with {', '.join(named.values())}",
                field="sets",
                value=entry.text,
            )
        return Scenario(
            problem_set=problem_set,
            problems=self._first(shared, entry),
            models=models,
            model=pool.name,
            is_replayed=True,
            has_quick_check=real is None or _is_lab_task(entry),
            sampling=pool.header.sampling,
            max_sample_tokens=pool.header.max_sample_tokens,
        )

    def _model(self, name: str) -> str | Engine:
        """A name to be opened later, or the engine that replays a pool."""
        if not name.startswith(POOL):
            return name
        from orchestrator.bench.recorded.engine import PoolEngine

        return PoolEngine(self._pool(self._file(name)))

    def _pool(self, path: Path) -> Pool:
        from orchestrator.bench.recorded.pool import read_pool

        if path not in self._pools:
            self._pools[path] = read_pool(path)
        return self._pools[path]

    def _file(self, name: str) -> Path:
        return self.suite.file(name.removeprefix(POOL))

    def _problem_set(self, entry: SetEntry, spec: str) -> ProblemSet:
        from orchestrator.bench.sets import open_set

        counts = [count for count in (entry.count, self.wish.num_problems) if count is not None]
        return open_set(spec, count=min(counts, default=None), seed=entry.seed, split=entry.split)

    def _first(self, problems: Sequence[Problem], entry: SetEntry) -> tuple[Problem, ...]:
        counts = [count for count in (entry.count, self.wish.num_problems) if count is not None]
        return tuple(problems)[: min(counts, default=None)]

    def _filled(self, text: str) -> str:
        return with_data(text, self.wish.data)


def with_data(text: str, folder: Path | None) -> str:
    """The text with the folder of datasets in its place.

    Raises:
        InvalidRequest: It needs one, and there is none.
    """
    if DATA not in text:
        return text
    if folder is None:
        raise InvalidRequest(f"{text!r} needs --data, the folder of datasets", field="data", value=text)
    return text.replace(DATA, str(folder))


def _is_lab_task(entry: SetEntry) -> bool:
    """Whether the set is one of the lab's tasks; what their answers are checked by is arithmetic."""
    return entry.set is not None and ":" not in entry.set


def _short(model: str) -> str:
    """The name of a model, without the folders of its file."""
    return Path(model).stem if model.endswith(".gguf") else model
