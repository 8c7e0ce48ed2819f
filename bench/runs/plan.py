"""Which jobs a suite means: each strategy on each problem, under each budget, with each seed; and what cannot be."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.bench.problems import Problem
from orchestrator.bench.runs.rows import Row
from orchestrator.bench.runs.scenarios import Scenario
from orchestrator.bench.runs.suite import Strategy, Suite
from orchestrator.budget import Budget
from orchestrator.engine import Engine
from orchestrator.sampling import derived_seed


@dataclass(frozen=True, slots=True)
class Job:
    """One problem for one strategy."""

    scenario: Scenario
    strategy: Strategy
    budget_text: str
    budget: Budget
    seed: int
    problem: Problem

    def row(self, suite: Suite) -> Row:
        """Its row, with nothing in it of what came of it."""
        return Row(
            suite=suite.name,
            set=self.scenario.problem_set.name,
            problem=self.problem.id,
            label=self.strategy.label,
            model=self.scenario.model,
            budget=self.budget_text,
            seed=self.seed,
            policy=self.strategy.policy,
            params=self.strategy.params,
            is_replayed=self.scenario.is_replayed,
        )

    @property
    def job_seed(self) -> int:
        """The same whatever the strategy and the budget, so that comparisons are paired."""
        return derived_seed(self.seed, self.problem.id)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What cannot be measured, and why.

    Attributes:
        set: The set of problems.
        model: As in rows.
        label: The strategy.
        budget: Under this budget only; None under all.
        reason: For people.
        is_replayed: Whether it is a recorded pool that stands in the way.
    """

    set: str
    model: str
    label: str
    budget: str | None
    reason: str
    is_replayed: bool

    def covers(self, row: Row) -> bool:
        """Whether the row belongs to it."""
        is_under = self.budget is None or self.budget == row.budget
        return is_under and (self.set, self.model, self.label) == (row.set, row.model, row.label)


@dataclass(slots=True)
class Plan:
    """The jobs of a suite.

    Args:
        suite: What is measured.
        scenarios: On what.

    Attributes:
        refusals: What cannot be measured; it has no jobs.
    """

    suite: Suite
    scenarios: Sequence[Scenario]
    refusals: list[Refusal] = field(default_factory=list)
    _refused: set[tuple[str, str, str, str | None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for scenario in self.scenarios:
            for strategy in self.suite.strategies:
                self._refuse_hopeless(scenario, strategy)

    def _refuse_hopeless(self, scenario: Scenario, strategy: Strategy) -> None:
        reasons = {text: scenario.obstacle(strategy, budget) for text, budget in self.suite.budgets.items()}
        known = {text: reason for text, reason in reasons.items() if reason is not None}
        if len(known) == len(reasons):
            self.refuse(scenario, strategy, next(iter(known.values())))
            return
        for text, reason in known.items():
            self.refuse(scenario, strategy, reason, budget=text)

    def refuse(self, scenario: Scenario, strategy: Strategy, reason: str, *, budget: str | None = None) -> None:
        """From now on the strategy has no jobs there."""
        refusal = Refusal(
            scenario.problem_set.name, scenario.model, strategy.label, budget, reason, scenario.is_replayed
        )
        key = refusal.set, refusal.model, refusal.label, budget
        if key not in self._refused:
            self._refused.add(key)
            self.refusals.append(refusal)

    def models_of(self, scenario: Scenario) -> dict[str, str | Engine]:
        """By role, the models that some strategy may ask for; others need not be opened."""
        roles = {"small"}
        for strategy in self.suite.strategies:
            if not strategy.spec.roles:  # it does not say
                return dict(scenario.models)
            if "large" in strategy.spec.roles or "large" in strategy.params.values():
                roles.add("large")
            if strategy.verifier_needs:  # without a verifier, the large model stands in
                roles.add("verifier" if "verifier" in scenario.models else "large")
        return {role: model for role, model in scenario.models.items() if role in roles}

    def jobs(self) -> Iterator[Job]:
        """All jobs."""
        for scenario in self.scenarios:
            yield from self.jobs_of(scenario)

    def jobs_of(self, scenario: Scenario) -> Iterator[Job]:
        """Those of one scenario; those of one problem come together, so a run that was stopped can be compared too."""
        for seed in self.suite.seeds:
            for problem in scenario.problems:
                for strategy in self.suite.strategies:
                    for text, budget in self.suite.budgets.items():
                        if not self._is_refused(scenario, strategy, text):
                            yield Job(scenario, strategy, text, budget, seed, problem)

    def pending(self, scenario: Scenario, done: Container[tuple[str, ...]]) -> Iterator[tuple[Job, Row]]:
        """Jobs whose keys are not in ``done``, with their empty rows."""
        for job in self.jobs_of(scenario):
            row = job.row(self.suite)
            if row.key not in done:
                yield job, row

    def _is_refused(self, scenario: Scenario, strategy: Strategy, budget: str) -> bool:
        head = scenario.problem_set.name, scenario.model, strategy.label
        return (*head, None) in self._refused or (*head, budget) in self._refused
