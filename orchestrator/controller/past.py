"""Accounts for a job's earlier lives: what they have paid, and what they may have spent when they ended."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.budget import Amount
from orchestrator.controller.context import RunContext
from orchestrator.controller.purchase import amount_of, sample_usage
from orchestrator.journal import LOST_ALLOWANCE_TOKENS, OpenRequest
from orchestrator.usage import Usage


async def account_for_the_past(run: RunContext) -> None:
    """Charges what earlier lives have paid, and what was in flight when the last one ended."""
    recording = run.recording
    run.usage = recording.usage
    requests = recording.open_requests()
    lost = Usage()
    for position, request, units in requests:
        lost += _lost_in(run, position, request, units)
    run.ledger.take_over(amount_of(recording.usage + lost), known_above=run.known_above)
    run.usage += lost
    if not requests:
        return
    names = [request.data["r"] for _, request, _ in requests]
    await run.recorder.write("lost", {"usage": lost.to_json(), "requests": names})


def _lost_in(run: RunContext, position: int, request: OpenRequest, units: list[int]) -> Usage:
    data, mark = request.data, request.mark
    if "reserved" in data:
        amount = Amount.from_json(data["reserved"])
        return Usage(
            prompt_tokens=amount.total_tokens - amount.output_tokens,
            output_tokens=amount.output_tokens,
            model_calls=amount.model_calls,
            tool_calls=amount.tool_calls,
            flops=amount.flops,
            picodollars=amount.picodollars,
            lost_tokens=amount.total_tokens,
            is_estimated=True,
        )
    action = run.recording.actions[position].action or {}
    _, engine = run.fleet.resolve(action.get("expand", action).get("model", "small"))
    description = engine.describe()
    context: int = mark["prompt"] if "prompt" in mark else data["prompt"]
    lost = Usage()
    for unit, grant in zip(data["units"], data["grants"], strict=True):
        if unit not in units:
            continue
        seen = mark.get("tokens", {}).get(str(unit), 0) + LOST_ALLOWANCE_TOKENS
        tokens = min(grant, seen) if description.counts_exactly else grant
        pays_prompt = unit == data["units"][0]
        usage = sample_usage(
            description.cost,
            context_tokens=context,
            prompt_tokens=context if pays_prompt else 0,
            cached_tokens=mark.get("cached", 0) if pays_prompt else 0,
            output_tokens=tokens,
            is_estimated=True,
        )
        usage += Usage.from_json(data.get("before", {}).get(str(unit), {}))
        lost += replace(usage, lost_tokens=usage.total_tokens)
    return lost
