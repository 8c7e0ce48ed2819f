"""From options to the arguments of `Orchestrator.solve`: the policy's parameters, the budget, sampling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from orchestrator import registry
from orchestrator.budget import Budget
from orchestrator.config import Settings
from orchestrator.errors import InvalidRequest
from orchestrator.policy import PolicySpec
from orchestrator.sampling import Sampling

COUNT_PARAMETERS = ("n", "max_samples")
"""What ``-n`` sets: the first of these that the policy has."""

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How problems are to be solved.

    Attributes:
        policy: Its name.
        params: Its parameters.
        budget: Caps per problem.
        verifier: Its name, if one was named.
        answer: How answers are read.
        sampling: Overrides the policy's; None to leave it.
        max_sample_tokens: None for the configured default.
        seed: Of all randomness.
    """

    policy: str
    params: Json = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    verifier: str | None = None
    answer: str = "auto"
    sampling: Sampling | None = None
    max_sample_tokens: int | None = None
    seed: int = 0

    @classmethod
    def of_options(
        cls,
        *,
        settings: Settings,
        policy: str | None,
        count: int | None,
        parameters: Sequence[str],
        budget: str | None,
        target_confidence: float | None,
        verifier: str | None,
        answer: str,
        temperature: float | None,
        max_sample_tokens: int | None,
        seed: int,
    ) -> Self:
        """As the options say.

        Raises:
            CallerError: One has a value that cannot be used, or two contradict each other.
        """
        policy = settings.policy if policy is None else policy
        spec = registry.load_policy(policy)
        params = _parameters(parameters)
        if count is not None:
            _put(params, _count_parameter(spec), count, option="-n")
        sampling = None
        if temperature is not None:
            if "temperature" in spec.params_type.model_fields:
                _put(params, "temperature", temperature, option="--temperature")
            else:
                sampling = Sampling(temperature=temperature)
        if verifier is not None and "verifier" in params:
            raise InvalidRequest("--verifier and --set verifier=... contradict each other", field="verifier")
        if budget is not None and not budget.strip(" ,"):
            raise InvalidRequest("the budget is empty; write for instance tokens=2000", field="budget", value=budget)
        if max_sample_tokens is not None and max_sample_tokens < 1:
            raise InvalidRequest(
                f"--max-sample-tokens must be at least 1, not {max_sample_tokens}", field="max_sample_tokens"
            )
        spec.params(params | ({"verifier": verifier} if _takes_verifier(spec, verifier) else {}))
        return cls(
            policy=policy,
            params=params,
            budget=Budget.parse(budget or "", target_confidence=target_confidence),
            verifier=verifier,
            answer=answer,
            sampling=sampling,
            max_sample_tokens=max_sample_tokens,
            seed=seed,
        )

    def overridden(self, row: Mapping[str, Any]) -> Self:  # Any: JSON values
        """With what a row of a JSON Lines file says: ``policy``, ``params``, ``budget``, ``seed``.

        Raises:
            InvalidRequest: A value has the wrong type.
        """
        changed = self
        if (policy := row.get("policy")) is not None:
            _require(isinstance(policy, str), "policy", policy, "a name")
            changed = replace(changed, policy=policy, params={} if policy != self.policy else self.params)
        if (params := row.get("params")) is not None:
            _require(isinstance(params, dict), "params", params, "an object")
            changed = replace(changed, params=changed.params | params)
        if (budget := row.get("budget")) is not None:
            _require(isinstance(budget, str | dict), "budget", budget, "text like tokens=2000, or an object")
            changed = replace(changed, budget=_budget(budget, target_confidence=self.budget.target_confidence))
        if (seed := row.get("seed")) is not None:
            _require(isinstance(seed, int) and not isinstance(seed, bool), "seed", seed, "a whole number")
            changed = replace(changed, seed=seed)
        return changed

    def arguments(self) -> Json:
        """Keyword arguments for `Orchestrator.solve`."""
        return {
            "policy": self.policy,
            "params": self.params,
            "budget": self.budget,
            "verifier": self.verifier,
            "answer": self.answer,
            "sampling": self.sampling,
            "max_sample_tokens": self.max_sample_tokens,
            "seed": self.seed,
        }


def _budget(given: str | Json, *, target_confidence: float | None) -> Budget:
    """A budget as text, or as an object with the same names."""
    if isinstance(given, dict):
        target_confidence = given.get("target_confidence", target_confidence)
        given = ",".join(f"{name}={value}" for name, value in given.items() if name != "target_confidence")
    return Budget.parse(given, target_confidence=target_confidence)


def _parameters(given: Sequence[str]) -> Json:
    """``name=value`` pairs; values are JSON where they can be, else text."""
    params: Json = {}
    for pair in given:
        name, sign, raw = pair.partition("=")
        name = name.strip()
        if not name or not sign:
            raise InvalidRequest(f"cannot read --set {pair!r}; write --set name=value", field="set", value=pair)
        try:
            value = json.loads(raw)
        except ValueError:
            value = raw
        _put(params, name, value, option="--set")
    return params


def _put(params: Json, name: str, value: object, *, option: str) -> None:
    if name in params:
        raise InvalidRequest(f"{option} sets {name!r}, which is set already", field=name, value=value)
    params[name] = value


def _count_parameter(spec: PolicySpec) -> str:
    for name in COUNT_PARAMETERS:
        if name in spec.params_type.model_fields:
            return name
    known = ", ".join(spec.params_type.model_fields) or "none"
    raise InvalidRequest(
        f"policy {spec.name!r} has no number of samples for -n to set; use --set with one of its parameters: {known}",
        field="n",
    )


def _takes_verifier(spec: PolicySpec, verifier: str | None) -> bool:
    return verifier is not None and "verifier" in spec.params_type.model_fields


def _require(is_valid: bool, name: str, value: object, wanted: str) -> None:
    if not is_valid:
        raise InvalidRequest(f"{name} must be {wanted}, not {value!r}", field=name, value=repr(value))
