"""Policies, verifiers and engines as people choose them: summaries, parameters with their ranges, needs, sources."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator import registry
from orchestrator.policies.search.params import StepParams
from orchestrator.policy import PolicySpec
from orchestrator.registry import Kind
from orchestrator.verifier import describe_verifier

WHOLE = "samples whole solutions"
SEARCH = "tree search over steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter, in words."""

    name: str
    type: str
    default: str
    range: str = ""
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One policy, verifier or engine.

    Attributes:
        name: As in options.
        summary: One sentence.
        facts: What else matters, in words, by name.
        parameters: What can be set.
        problem: Why it cannot be used here; empty if it can.
    """

    name: str
    summary: str
    facts: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    problem: str = ""

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """JSON values."""
        return {**asdict(self), "facts": dict(self.facts), "is_usable": not self.problem}


def described_policies() -> list[Description]:
    """All registered policies, sorted by name."""
    return _all("policy", lambda name: _policy(registry.load_policy(name)))


def described_verifiers() -> list[Description]:
    """All registered verifiers, sorted by name."""
    return _all("verifier", _verifier)


def described_engines() -> list[Description]:
    """All registered engines, sorted by name."""
    return _all("engine", _engine)


def _all(kind: Kind, describe: Callable[[str], Description]) -> list[Description]:
    """Those that cannot be imported are listed with the reason."""
    found: list[Description] = []
    for name in registry.names(kind):
        try:
            found.append(describe(name))
        except Exception as error:  # noqa: BLE001  # another package's code
            found.append(Description(name=name, summary="", problem=f"cannot be imported: {error!r}"))
    return found


def _policy(spec: PolicySpec) -> Description:
    verifier = spec.params_type.model_fields.get("verifier")
    facts = {
        "kind": SEARCH if issubclass(spec.params_type, StepParams) else WHOLE,
        "source": spec.source or "none",
        "models": ", ".join(spec.roles) or "none",
        "verifier": "none" if verifier is None else f"any; by default {verifier.default}",
        "stops at a target confidence": "yes" if spec.stops_at_confidence else "no",
    }
    return Description(name=spec.name, summary=spec.summary, facts=facts, parameters=parameters_of(spec.params_type))


def _verifier(name: str) -> Description:
    info = describe_verifier(name, registry.load("verifier", name))
    facts = {"source": info.source or "none", "needs": ", ".join(info.needs) or "nothing"}
    parameters = tuple(Parameter(name=key, type="", default=value) for key, value in info.parameters.items())
    return Description(name=name, summary=info.summary, facts=facts, parameters=parameters)


@dataclass(frozen=True, slots=True)
class _EngineFacts:
    """What an entry point's function cannot say of itself."""

    summary: str
    models: str
    package: str = ""
    extra: str = ""
    settings: str = ""


_ENGINES = {
    "llama_cpp": _EngineFacts(
        "GGUF models in this process, on CPU or GPU; no server. The default.",
        "NAME of the catalogue, PATH.gguf, or llama_cpp:PATH",
        package="llama_cpp",
        extra="local",
        settings="TTC_LLAMA_CPP__NUM_THREADS, TTC_LLAMA_CPP__CONTEXT_CELLS, TTC_LLAMA_CPP__MAX_SEQUENCES",
    ),
    "openai": _EngineFacts(
        "Any server that speaks the OpenAI protocol.",
        "openai:MODEL, or openai:MODEL@http://HOST:PORT/v1",
        settings="TTC_OPENAI__BASE_URL, TTC_OPENAI__API_KEY (sent to that address only)",
    ),
    "scripted": _EngineFacts(
        "No model: a script that plays one, for trying things out and for tests.",
        "scripted:arithmetic, scripted:babble, scripted:say=TEXT; scripted:arithmetic,token_s=0.01 takes its time",
    ),
}


def _engine(name: str) -> Description:
    known = _ENGINES.get(name)
    if known is None:
        summary = (registry.load("engine", name).__doc__ or "").strip().split("\n")[0]
        return Description(name=name, summary=summary, facts={"model": f"{name}:TARGET"})
    is_installed = not known.package or importlib.util.find_spec(known.package) is not None
    facts = {"model": known.models}
    if known.package:
        facts["package"] = f"{known.package} ({'installed' if is_installed else 'not installed'})"
    if known.settings:
        facts["settings"] = known.settings
    problem = "" if is_installed else f"not installed; pip install 'ttc-orchestrator[{known.extra}]'"
    return Description(name=name, summary=known.summary, facts=facts, problem=problem)


def parameters_of(model: type[BaseModel]) -> tuple[Parameter, ...]:
    """The fields of a parameters' model."""
    return tuple(
        Parameter(
            name=name,
            type=type_words(info.annotation),
            default="required" if info.is_required() else _shown(info.get_default(call_default_factory=True)),
            range=_range(info),
            meaning=info.description or "",
        )
        for name, info in model.model_fields.items()
    )


def type_words(annotation: Any) -> str:  # Any: an annotation
    """A type as people say it."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(_shown, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return f"list of {type_words(get_args(annotation)[0])}"
    if args := get_args(annotation):
        return " or ".join(type_words(arg) for arg in args)
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


def _range(info: FieldInfo) -> str:
    """The limits pydantic holds, for instance ``1 to 1000`` or ``above 0, below 1``."""
    low = high = ""
    for limit in info.metadata:
        match limit:
            case annotated_types.Ge(ge):
                low = f"{ge}"
            case annotated_types.Gt(gt):
                low = f"above {gt}"
            case annotated_types.Le(le):
                high = f"{le}"
            case annotated_types.Lt(lt):
                high = f"below {lt}"
            case annotated_types.MinLen(length):
                low = f"at least {length} character{'s' if length > 1 else ''}"
    if low and high:
        return f"{low} to {high}"
    if low[:1].isdigit():
        return f"at least {low}"
    return low or high
