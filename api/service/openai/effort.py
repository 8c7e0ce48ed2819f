"""How wide to search: what ``reasoning_effort`` means for each policy, and the cap that follows from it."""

from __future__ import annotations

from orchestrator.policy import PolicySpec

WIDTHS = {"none": 1, "minimal": 2, "low": 4, "medium": 8, "high": 16, "xhigh": 32, "max": 64}
"""Candidates by effort."""

_WIDTH_PARAMS = ("n", "max_samples", "width")
_DEFAULT_WIDTH = 8
"""Of policies that have no such parameter: their effort is the cap alone."""


def width_param(policy: PolicySpec) -> str | None:
    """The parameter that says how many candidates a policy takes; None if it has none."""
    if policy.name == "single":
        return None  # its n are independent replies, not candidates for one
    return next((name for name in _WIDTH_PARAMS if name in policy.params_type.model_fields), None)


def width_of(policy: PolicySpec, effort: str | None, given: object = None) -> int:
    """Candidates, at most.

    Args:
        policy: Who takes them.
        effort: As the client said; None for the policy's own default.
        given: Value of the policy's `width_param`, if the client set it.
    """
    if policy.name == "single":
        return 1
    if isinstance(given, int) and given > 0:
        return given
    if effort is not None:
        return WIDTHS[effort]
    name = width_param(policy)
    return policy.params_type.model_fields[name].default if name is not None else _DEFAULT_WIDTH
