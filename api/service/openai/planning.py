"""From a wish to a job: which policy with which parameters, caps, sampling, and demands on replies."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from orchestrator import registry
from orchestrator.api.service.openai.effort import width_of, width_param
from orchestrator.api.service.openai.json_schemas import check_schema
from orchestrator.api.service.openai.model_names import AUTO, PREFIX, named
from orchestrator.api.service.openai.wish import Wish
from orchestrator.api.service.requests import BudgetBody, JobRequest, MessageBody, SamplingBody, budget_of
from orchestrator.api.service.security.wishes import check_wishes
from orchestrator.api.service.service import Service
from orchestrator.budget import Budget
from orchestrator.config import Settings
from orchestrator.engine import Capability
from orchestrator.errors import CapabilityMissing, InvalidRequest
from orchestrator.fleet import Fleet
from orchestrator.policy import PolicySpec
from orchestrator.reply_form import ReplyForm
from orchestrator.sampling import Sampling

_SEEDS = 2**63
_OPEN = "open"
_WITHOUT_CUE = frozenset({_OPEN, "text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job that grants a wish.

    Attributes:
        wish: The wish.
        job: What the service is asked for.
        form: What is demanded of replies.
        streams_live: Whether text may be shown while it is generated: it is the answer's, whatever comes after it.
    """

    wish: Wish
    job: JobRequest
    form: ReplyForm
    streams_live: bool

    @property
    def policy(self) -> str:
        """Who decides."""
        return self.job.policy or ""

    @property
    def is_single(self) -> bool:
        """Whether choices are independent replies, not ranked answers."""
        return self.policy == "single"

    @property
    def sampling(self) -> dict[str, Any]:  # Any: JSON values
        """Whose sampling is used, and which where it is not the policy's own."""
        if self.job.sampling is None:
            return {"from": "policy"}
        source = "ttc" if isinstance(self.wish.ttc.sampling, SamplingBody) else "request"
        return {"from": source, **self.job.sampling.model_dump()}


async def planned_by(service: Service, wish: Callable[[], Wish]) -> Plan:
    """The job by which a service grants what a request says.

    Raises:
        CallerError: It cannot.
    """
    orchestrator = service.orchestrator
    try:
        planned = plan(wish(), orchestrator.fleet, orchestrator.settings)
    except ValidationError as error:  # parts that are right by themselves and too much together
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise InvalidRequest(f"{field}: {problem['msg']}", field=field) from None
    if planned.form.json_schema is not None:
        await check_schema(planned.form.json_schema, orchestrator.pool)
    return planned


def plan(wish: Wish, fleet: Fleet, settings: Settings) -> Plan:
    """The job.

    Raises:
        CallerError: The wish cannot be granted.
    """
    name = named(wish.model, fleet, default_policy=settings.policy)
    policy_name, answer = _policy_name(wish, name.policy), wish.ttc.answer or _answer_kind(wish)
    check_wishes(policy=policy_name, answer=answer, allows_patterns=settings.service.allows_patterns)
    policy = registry.load_policy(policy_name)
    params = _params(wish, policy, name.model)
    messages, prefix = _split(wish.messages)
    form = ReplyForm(
        stop=wish.stop,
        json_schema=wish.json_schema,
        tools=wish.tools,
        num_logprobs=0 if wish.top_logprobs is None else max(1, wish.top_logprobs),
        prefix=prefix,
    )
    _check_form(form, policy)
    max_tokens = wish.max_tokens or settings.max_sample_tokens
    width = wish.n if policy.name == "single" else width_of(policy, wish.effort, params.get(width_param(policy) or ""))
    job = JobRequest(
        problem=_problem(messages),
        messages=messages,
        policy=policy.name,
        params=params,
        budget=_budget(wish, settings, tokens=width * max_tokens, has_cue=answer not in _WITHOUT_CUE),
        verifier=wish.ttc.verifier,
        answer=answer,
        sampling=_sampling(wish, policy),
        max_sample_tokens=max_tokens,
        seed=_seed(wish),
        labels={**wish.labels, **wish.ttc.labels},
    )
    return Plan(wish=wish, job=job, form=form, streams_live=_streams_live(form, policy, params, fleet))


def _answer_kind(wish: Wish) -> str:
    return _OPEN if wish.json_schema is None else "json"


def _policy_name(wish: Wish, by_name: str) -> str:
    wanted = wish.ttc.policy
    if wanted is None:
        return "single" if wish.model == AUTO and wish.effort == "none" else by_name
    if wish.model.startswith(PREFIX) and wish.model != AUTO and wanted != by_name:
        raise InvalidRequest(
            f"model={wish.model!r} and ttc.policy={wanted!r} name two policies; drop one of them",
            field="ttc.policy",
            value=wanted,
        )
    return wanted


def _params(wish: Wish, policy: PolicySpec, model: str | None) -> dict[str, Any]:  # Any: JSON values
    params = dict(wish.ttc.params)
    fields = policy.params_type.model_fields
    if model is not None:
        if "model" not in fields:
            raise InvalidRequest(
                f"policy {policy.name!r} chooses its models by role and cannot be told to use {model!r}; "
                f"send model='{PREFIX}{policy.name}'",
                field="model",
                value=model,
            )
        params.setdefault("model", model)
    if policy.name == "single":
        if params.setdefault("n", wish.n) != wish.n:
            raise InvalidRequest("say how many replies are wanted in n, not in ttc.params", field="ttc.params.n")
        if wish.n > 1:
            params.setdefault("temperature", Sampling().temperature)  # greedy replies would all be the same
    elif wish.effort is not None and (width := width_param(policy)) is not None:
        params.setdefault(width, width_of(policy, wish.effort))
    if wish.max_tokens is not None and "max_tokens" in fields:
        params.setdefault("max_tokens", wish.max_tokens)
    return params


def _split(messages: tuple[MessageBody, ...]) -> tuple[tuple[MessageBody, ...], str]:
    """The conversation, and the beginning of the reply if its last message is one."""
    last = messages[-1]
    if last.role != "assistant":
        return messages, ""
    if last.tool_calls:
        raise InvalidRequest(
            "the last message asks for tools; send their results after it", field=f"messages.{len(messages) - 1}"
        )
    if len(messages) == 1:
        raise InvalidRequest("there is nothing to reply to but an assistant's message", field="messages")
    return messages[:-1], last.content


def _problem(messages: tuple[MessageBody, ...]) -> str:
    asked = [message.content for message in messages if message.role == "user" and message.content.strip()]
    said = asked or [message.content for message in messages if message.content.strip()]
    if not said:
        raise InvalidRequest("no message says anything", field="messages")
    return said[-1]


def _check_form(form: ReplyForm, policy: PolicySpec) -> None:
    if form.num_logprobs and policy.name != "single":
        raise InvalidRequest(
            f"log probabilities can be had with policy 'single' only, not with {policy.name!r}; leave logprobs out, or "
            "send the name of a model of the fleet",
            field="logprobs",
        )
    fields = policy.params_type.model_fields
    samples_whole = {"model", "temperature"} <= set(fields) and not {"verifier", "wait", "max_depth"} & set(fields)
    if form.tools is not None and not samples_whole:
        raise CapabilityMissing(
            model=f"{PREFIX}{policy.name}", capability="tool calls (it scores or continues texts)", able=_VOTERS
        )


_VOTERS = ("ttc/adaptive_consistency", "ttc/early_stopping", "ttc/self_consistency", "ttc/single")


def _budget(wish: Wish, settings: Settings, *, tokens: int, has_cue: bool) -> BudgetBody | str | None:
    given = wish.ttc.budget
    target = wish.ttc.target_confidence
    says_nothing = wish.max_tokens is None and wish.effort is None
    if given is None and says_nothing and settings.service.default_budget is not None:
        given = settings.service.default_budget
    if given is not None:
        caps = budget_of(given, field="ttc.budget")
    else:
        reserve = Budget(max_output_tokens=tokens).reserve_tokens if has_cue else 0
        caps = Budget(max_output_tokens=tokens + max(1, reserve), answer_reserve_tokens=reserve)
    if target is not None:
        caps = replace(caps, target_confidence=target)
    return BudgetBody(**caps.to_json())


def _sampling(wish: Wish, policy: PolicySpec) -> SamplingBody | None:
    """None leaves it to the policy."""
    wanted = wish.ttc.sampling
    if isinstance(wanted, SamplingBody):
        return wanted
    uses_request = wanted == "request" or (wanted is None and policy.name == "single")
    if not uses_request or not wish.has_sampling:
        return None
    default = Sampling()
    return SamplingBody(
        temperature=default.temperature if wish.temperature is None else wish.temperature,
        top_p=default.top_p if wish.top_p is None else wish.top_p,
        top_k=max(0, wish.top_k or 0),
        min_p=default.min_p if wish.min_p is None else wish.min_p,
    )


def _seed(wish: Wish) -> int:
    """Clients that name no seed expect another reply each time."""
    if wish.ttc.seed is not None:
        return wish.ttc.seed
    return secrets.randbelow(_SEEDS) if wish.seed is None else wish.seed % _SEEDS


def _streams_live(form: ReplyForm, policy: PolicySpec, params: dict[str, Any], fleet: Fleet) -> bool:
    if policy.name != "single":
        return False
    _, engine = fleet.resolve(params.get("model", "small"))
    return form.json_schema is None or Capability.GRAMMAR in engine.describe().capabilities
