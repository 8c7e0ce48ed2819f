"""The policy protocol: a generator that yields actions, is sent outcomes, and returns an answer.

A policy does no I/O, reads no clock and takes its randomness from `PolicyContext.rng`; that is what makes it
replayable, testable by hand and runnable on recorded samples. This module has no idea how actions are carried out.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.actions import Action, Answer
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest
from orchestrator.isolation import importable_name
from orchestrator.tree import Node

if TYPE_CHECKING:
    import numpy as np

Policy = Generator[Action, Any, Answer | Node | str | None]
"""What calling a policy gives. Any: the outcome depends on the action (see `orchestrator.actions`)."""


class PolicyParams(BaseModel):
    """Base of a policy's parameters; unknown names and wrong types are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AnyParams(BaseModel):
    """Parameters of a plain function passed as a policy: whatever the caller gives."""

    model_config = ConfigDict(extra="allow", frozen=True)


@dataclass(frozen=True, slots=True)
class Query:
    """What a policy works on.

    Attributes:
        problem: The problem as the caller wrote it.
        root: The root of the tree: the conversation a model is asked to continue.
        cue: Text that makes a model state its answer next.
    """

    problem: str
    root: Node
    cue: str = ""


_ParamsT = TypeVar("_ParamsT", bound=BaseModel)


@dataclass(slots=True)
class PolicyContext(Generic[_ParamsT]):
    """What a policy may use besides its query.

    Attributes:
        params: Its parameters.
        rng: Its only source of randomness; seeded by the job.
        target_confidence: At which to stop early; None to use the policy's own default.
        roles: Model roles this fleet has, for instance ``{"small", "large"}``.
        token_cap: The job's cap on output tokens; None without one.
    """

    params: _ParamsT
    rng: np.random.Generator
    target_confidence: float | None = None
    roles: frozenset[str] = frozenset({"small"})
    token_cap: int | None = None
    _num_roots: int = field(default=0, repr=False)

    def new_root(self, messages: Sequence[Message], *, answers_query: bool = False) -> Node:
        """A root for another conversation; give it to `Expand` like any node.

        Args:
            messages: What is said in it so far.
            answers_query: Whether replies are answers to the query (an earlier solution is to be improved). If so they
                count like those to the query itself, and verifiers judge them as such; a judge's or planner's do not.
        """
        self._num_roots += 1
        return Node(id=f"r{self._num_roots}", messages=tuple(messages), answers_query=answers_query)


PolicyFunction = Callable[[Query, PolicyContext[Any]], Policy]
"""Any: each policy names its own parameters' type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy and what people need to know to choose it.

    Attributes:
        name: As in ``--policy``.
        function: The generator function.
        params_type: Its parameters, a pydantic model.
        summary: One sentence.
        source: The paper it implements.
        stops_at_confidence: Whether it has a stopping estimate, and so accepts a target confidence.
        roles: Roles it cannot do without.
        version: Raised when the same parameters may lead to other actions; part of the journal's fingerprint.
    """

    name: str
    function: PolicyFunction
    params_type: type[BaseModel]
    summary: str
    source: str = ""
    stops_at_confidence: bool = False
    roles: tuple[str, ...] = ("small",)
    version: int = 1

    def params(self, values: dict[str, Any]) -> BaseModel:
        """Checked parameters.

        Raises:
            InvalidRequest: Naming the parameter, its value, and those that exist.
        """
        try:
            return self.params_type(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            if problem["type"] == "extra_forbidden":
                known = ", ".join(self.params_type.model_fields) or "none"
                reason = f"policy {self.name!r} has no parameter {where!r}; it has: {known}"
            elif where:
                reason = f"policy {self.name!r}: {where}={values.get(where)!r} is not valid: {problem['msg']}"
            else:  # a rule about several parameters
                reason = f"policy {self.name!r}: {problem['msg'].removeprefix('Value error, ')}"
            raise InvalidRequest(reason, field=where or "params", value=values.get(where)) from None

    def fingerprint(self, params: BaseModel) -> str:
        """Name, version and parameters in one hash; a journal belongs to exactly one."""
        text = json.dumps([self.name, self.version, params.model_dump(mode="json")], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def import_name(self) -> str | None:
        """``module:function`` if it can be imported again after a crash, else None."""
        module, name = self.function.__module__, self.function.__qualname__
        if module != "__main__" and getattr(sys.modules.get(module), name, None) is self:
            return f"{module}:{name}"
        return importable_name(self.function)


def policy(
    name: str,
    *,
    params: type[BaseModel] = PolicyParams,
    source: str = "",
    stops_at_confidence: bool = False,
    roles: tuple[str, ...] = ("small",),
    version: int = 1,
) -> Callable[[PolicyFunction], PolicySpec]:
    """Declares a generator function as a policy; the first line of its docstring becomes the summary."""

    def declare(function: PolicyFunction) -> PolicySpec:
        return PolicySpec(
            name=name,
            function=function,
            params_type=params,
            summary=_first_line(function),
            source=source,
            stops_at_confidence=stops_at_confidence,
            roles=roles,
            version=version,
        )

    return declare


def as_policy(value: PolicySpec | PolicyFunction) -> PolicySpec:
    """A plain generator function as a policy with free parameters.

    Raises:
        InvalidRequest: It is no generator function.
    """
    if isinstance(value, PolicySpec):
        return value
    if not inspect.isgeneratorfunction(value):
        raise InvalidRequest(
            f"a policy must be a generator function (its body yields actions), not {value!r}", field="policy"
        )
    return PolicySpec(
        name=value.__name__,
        function=value,
        params_type=AnyParams,
        summary=_first_line(value),
        stops_at_confidence=True,
        roles=(),
    )


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").strip().split("\n\n")[0].replace("\n", " ")
