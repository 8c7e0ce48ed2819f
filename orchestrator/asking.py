"""From the arguments of `Orchestrator.solve` to a job; whatever can be refused is refused here, at no cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from orchestrator import registry
from orchestrator.answers import AnswerReader
from orchestrator.budget import UNLIMITED, Budget
from orchestrator.config import Settings
from orchestrator.engine import Capability, Engine, Message
from orchestrator.equipment import Equipment
from orchestrator.errors import CapabilityMissing, InvalidRequest, JobConflict
from orchestrator.fleet import Fleet
from orchestrator.job import JobSpec
from orchestrator.policy import PolicyFunction, PolicySpec, as_policy
from orchestrator.reply_form import FREE_FORM, ReplyForm
from orchestrator.sampling import Sampling
from orchestrator.scoring_guard import guarded
from orchestrator.verifier import Candidate, Verifier

VerifierLike = str | Verifier | Callable[[Candidate], Any]
"""A registered name, a verifier, or a function. Any: float, bool, None or an awaitable of them."""


class CheckedJob(NamedTuple):
    """What is to be run: all that is written down of it, the policy that decides, and its checked parameters."""

    spec: JobSpec
    policy: PolicySpec
    params: BaseModel


class Asking:
    """Checks what callers ask for.

    Args:
        settings: The configuration, for what callers leave open.
        wanted: Role to the model that was named for it, or the engine that was passed.
        fleet: Gives the open models.
        equipment: Where readers and verifiers are found, and verifiers that callers pass are kept.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        wanted: Mapping[str, str | Path | Engine],
        fleet: Callable[[], Fleet],
        equipment: Equipment,
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._fleet = fleet
        self._equipment = equipment

    def checked(
        self,
        problem: str,
        *,
        policy: str | PolicySpec | PolicyFunction | None = None,
        params: Mapping[str, Any] | None = None,  # Any: see `solve`
        budget: Budget | str | None = None,
        verifier: VerifierLike | None = None,
        answer: str = "auto",
        messages: Iterable[Message] | None = None,
        sampling: Sampling | None = None,
        max_sample_tokens: int | None = None,
        seed: int = 0,
        labels: Mapping[str, str] | None = None,
        form: ReplyForm | None = None,
        cache_salt: str = "",
    ) -> CheckedJob:
        """The job that the arguments of `Orchestrator.solve` describe; ``cache_salt`` is that of `JobSpec`.

        Raises:
            CallerError: There can be no such job; the error names the argument.
        """
        if not isinstance(problem, str):
            raise InvalidRequest(f"the problem must be text, not {type(problem).__name__}", field="problem")
        _check_types(
            params=params, budget=budget, sampling=sampling, labels=labels, max_sample_tokens=max_sample_tokens
        )
        name = policy if isinstance(policy, str) else None if policy is not None else self._settings.policy
        decided = registry.load_policy(name) if name is not None else as_policy(policy)  # type: ignore[arg-type]  # not a name
        values = dict(params or {})
        if verifier is not None:
            values["verifier"] = self._named(verifier, decided)
        _check_json(values, decided)
        checked = decided.params(values)
        self._check_form(form or FREE_FORM, checked)
        caps = Budget.parse(budget) if isinstance(budget, str) else budget or UNLIMITED
        self._check(decided, caps, checked)
        reader = self._equipment.reader(answer)
        spec = JobSpec(
            problem=problem,
            messages=conversation(problem, reader) if messages is None else _checked_messages(messages),
            policy=name or decided.import_name or f"<{decided.name}>",
            params=values,
            fingerprint=decided.fingerprint(checked),
            budget=caps,
            seed=seed,
            answer_kind=answer,
            sampling=sampling,
            max_sample_tokens=self._sample_tokens(max_sample_tokens, caps),
            models={role: str(value) for role, value in self._wanted.items() if isinstance(value, str | Path)},
            labels=dict(labels or {}),
            form=form or FREE_FORM,
            cache_salt=cache_salt,
        )
        return CheckedJob(spec, decided, checked)

    def _sample_tokens(self, wanted: int | None, caps: Budget) -> int:
        if wanted is not None:
            return wanted
        tokens = self._settings.max_sample_tokens
        return tokens if caps.max_output_tokens is None else min(tokens, max(256, caps.max_output_tokens // 8))

    def _check(self, decided: PolicySpec, budget: Budget, params: BaseModel) -> None:
        if budget.target_confidence is not None and not decided.stops_at_confidence:
            able = [name for name in registry.names("policy") if registry.load_policy(name).stops_at_confidence]
            raise InvalidRequest(
                f"policy {decided.name!r} has no estimate of its confidence to stop at; policies that have: "
                f"{', '.join(able)}",
                field="target_confidence",
                value=budget.target_confidence,
            )
        for role in decided.roles:
            self._fleet().resolve(role)
        verifier = getattr(params, "verifier", None)
        if isinstance(verifier, str):
            self._equipment.verifier(verifier)

    def _check_form(self, form: ReplyForm, params: BaseModel) -> None:
        """Refuses what the model that is sampled cannot do; a schema is checked afterwards where it has no grammars."""
        _, engine = self._fleet().resolve(getattr(params, "model", "small"))
        needed = {
            Capability.TOOLS: form.tools is not None,
            Capability.CONTINUE: bool(form.prefix),
            Capability.LOGPROBS: bool(form.num_logprobs),
        }
        for capability, is_needed in needed.items():
            if is_needed and capability not in engine.describe().capabilities:
                described = [other.describe() for other in self._fleet()]
                able = [other.name for other in described if capability in other.capabilities]
                raise CapabilityMissing(model=engine.describe().name, capability=capability.value, able=able)

    def _named(self, verifier: VerifierLike, decided: PolicySpec) -> str:
        """The name under which the policy can ask for the verifier."""
        fields = decided.params_type.model_fields
        if "verifier" not in fields and decided.params_type.model_config.get("extra") != "allow":
            raise InvalidRequest(
                f"policy {decided.name!r} uses no verifier; choose one that does (see: ttc policies)", field="verifier"
            )
        if isinstance(verifier, str):
            return verifier
        wrapped = guarded(verifier)
        self._equipment.add_verifier(wrapped.name, wrapped)
        return wrapped.name


def asked_before(job_id: str, spec: JobSpec) -> CheckedJob:
    """A stored job, to be run again.

    Raises:
        JobConflict: It ends with the process that took it, or its policy cannot be imported again.
    """
    if spec.is_bound:
        raise JobConflict(f"job {job_id!r} ended with the process that ran it; run it anew", job_id=job_id)
    if not spec.is_resumable:
        raise JobConflict(
            f"job {job_id!r} ran a policy that cannot be imported again ({spec.policy}); run it anew", job_id=job_id
        )
    decided = registry.load_policy(spec.policy)
    return CheckedJob(spec, decided, decided.params(spec.params))


def _check_types(*, labels: object, max_sample_tokens: object, **others: object) -> None:
    """What a type checker would have said, for those who use none.

    Raises:
        InvalidRequest: Naming the argument.
    """
    kinds: dict[str, tuple[type, ...]] = {"params": (Mapping,), "budget": (Budget, str), "sampling": (Sampling,)}
    for name, value in others.items():
        if value is not None and not isinstance(value, kinds[name]):
            wanted = " or ".join(kind.__name__ for kind in kinds[name])
            raise InvalidRequest(f"{name} must be a {wanted}, not {value!r:.100}", field=name)
    is_text = isinstance(labels, Mapping) and all(isinstance(part, str) for pair in labels.items() for part in pair)
    if labels is not None and not is_text:
        raise InvalidRequest(f"labels must map texts to texts, not {labels!r:.100}", field="labels")
    is_whole = isinstance(max_sample_tokens, int) and not isinstance(max_sample_tokens, bool)
    if max_sample_tokens is not None and not is_whole:
        raise InvalidRequest(
            f"max_sample_tokens must be a whole number, not {max_sample_tokens!r:.100}", field="max_sample_tokens"
        )


def _checked_messages(messages: Iterable[Message]) -> tuple[Message, ...]:
    try:
        turns = tuple(messages)
    except TypeError:
        raise InvalidRequest(f"messages must be a list of Message, not {messages!r:.100}", field="messages") from None
    if not turns or not all(isinstance(message, Message) for message in turns):
        raise InvalidRequest("messages must hold at least one Message, and nothing else", field="messages")
    return turns


def _check_json(params: Mapping[str, object], decided: PolicySpec) -> None:
    try:
        json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"parameters of policy {decided.name!r} are written down, so they must be JSON values: {error}",
            field="params",
        ) from None


def conversation(problem: str, reader: AnswerReader) -> tuple[Message, ...]:
    """What models are shown of a problem that comes without messages."""
    if not reader.instruction:
        return (Message("user", problem),)
    return (Message("system", reader.instruction), Message("user", problem))
