"""The answer reserve: what a job holds back of its budget, so that it can state an answer however it is cut off."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.budget import Amount
from orchestrator.controller.context import RunContext
from orchestrator.controller.purchase import prompt_bound, sample_amount
from orchestrator.engine import Engine
from orchestrator.errors import BudgetTooSmall, ContextOverflow
from orchestrator.fleet import Fleet


def keep_answer_reserve(run: RunContext) -> None:
    """Holds back what stating an answer costs, so that a job that is cut off still has one.

    Raises:
        BudgetTooSmall: Not even that fits.
        ContextOverflow: The model cannot read the problem.
    """
    budget = run.spec.budget
    _, engine = run.fleet.resolve(main_role(run.fleet))
    context = prompt_bound(engine, run.tree.root.prompt(forced=run.reader.cue))
    length = engine.describe().context_length
    if context + 1 > length:
        raise ContextOverflow(model=engine.describe().name, prompt_tokens=context, context_length=length)
    wanted = min(budget.reserve_tokens, length - context)
    hold = conclusion_amount(engine, context, wanted)
    caps = budget.caps()
    if caps.get("model_calls") == 1:
        hold = replace(hold, model_calls=0)  # the one call is better spent on a whole sample
    if not run.recording.actions:
        for name, cap in caps.items():
            if getattr(hold, name) > cap:
                raise _too_small(name, cap, getattr(hold, name))
    run.ledger.hold(hold)


def main_role(fleet: Fleet) -> str:
    """Who states an answer: the small model, or the first where none plays that role."""
    return "small" if "small" in fleet.roles else next(iter(fleet.models))


def conclusion_amount(engine: Engine, context: int, tokens: int) -> Amount:
    """The most that stating an answer in ``tokens`` tokens can cost, after ``context`` tokens that are read for it."""
    return sample_amount(
        engine.describe().cost, context_tokens=context, prompt_tokens=context, output_tokens=max(1, tokens)
    )


def _too_small(amount_name: str, cap: int, needed: int) -> BudgetTooSmall:
    scale = 1e-12 if amount_name == "picodollars" else 1
    names = {"picodollars": "max_usd"}
    return BudgetTooSmall(limit=names.get(amount_name, f"max_{amount_name}"), value=cap * scale, needed=needed * scale)
