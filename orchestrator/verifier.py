"""What the controller expects of whoever says how right a text is, and how a verifier buys model work.

Implementations live in `orchestrator.verifiers` or with third parties and are found by name in the entry points
`orchestrator.verifiers`; `orchestrator.scoring_guard` turns any of them, or a plain callable, into something that
cannot hang, crash or lie to the controller.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from orchestrator.engine import FinishReason, Prompt, StepRewards, TokenScores
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.sampling import GREEDY, Sampling

ENTRY_POINTS = "orchestrator.verifiers"
"""Entry points group: name -> class whose instances are verifiers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One text to be scored.

    Attributes:
        problem: The query as the caller wrote it.
        text: Everything the model has written on it so far, from the root to this node.
        answer: The final answer in `text`; None if there is none (yet).
        answer_class: Name of the class of equivalent answers it belongs to; None without an answer.
        is_final: Whether the model ended its reply here; otherwise `text` is a partial solution.
        prompt: The conversation and `text`, as an engine continues it.
    """

    problem: str
    text: str
    answer: str | None
    answer_class: str | None
    is_final: bool
    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sample that a verifier bought.

    Attributes:
        text: What the model wrote.
        finish: Why it ended.
        output_tokens: Tokens it took.
        first_token: The likeliest first tokens, best first, each with its natural log probability before truncation
            and temperature; empty unless `num_logprobs` were asked for.
    """

    text: str
    finish: FinishReason
    output_tokens: int
    first_token: tuple[tuple[str, float], ...] = ()


class Meter(Protocol):
    """Buys model work for one call of a verifier; the controller implements it, reserves and charges.

    A None in a result means that the budget did not allow that piece of work or the engine failed at it; the
    verifier then leaves the score that depends on it missing.
    """

    async def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        model: str = "verifier",
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        num_logprobs: int = 0,
        seed: int = 0,
    ) -> Sequence[Completion | None]:
        """One sample of each prompt, run concurrently.

        Args:
            prompts: What to continue.
            max_tokens: Most tokens per sample, at least 1.
            model: A role or a model's name.
            sampling: How tokens are chosen.
            stop: A sample also ends with the token that completes one of these.
            num_logprobs: How many first-token alternatives to report; 0 for none.
            seed: Told apart per prompt and mixed with the job's seed by the controller.

        Raises:
            CapabilityMissing: The model cannot do this at all.
        """
        ...

    async def score_tokens(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], *, model: str = "verifier"
    ) -> Sequence[TokenScores | None]:
        """Log probability of each token of ``continuations[i]`` after ``prompts[i]``.

        Raises:
            CapabilityMissing: The model cannot score given tokens.
        """
        ...

    async def reward_steps(
        self,
        prompts: Sequence[Prompt],
        steps: Sequence[Sequence[str]],
        *,
        num_known: Sequence[int] | None = None,
        model: str = "verifier",
    ) -> Sequence[StepRewards | None]:
        """Rewards of ``steps[i][num_known[i]:]``, the steps of a reply to ``prompts[i]``, run concurrently.

        Raises:
            CapabilityMissing: The model is no process reward model.
        """
        ...


@runtime_checkable
class Remembers(Protocol):
    """A meter that keeps what a verifier wants to find again, until the job ends or its process does.

    That is where a verifier may keep state of a job: the verifier itself serves all jobs, those of other tenants too.
    What is remembered may lower a price and must change no score: it is gone when a job is resumed.
    """

    @property
    def memory(self) -> MutableMapping[str, Any]:
        """Values by keys that begin with the verifier's name. Any: whatever a verifier keeps."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Scores candidates. An optional ``async aclose()`` frees what it holds."""

    @property
    def name(self) -> str:
        """The name its scores are kept under."""
        ...

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        """One score per candidate, in [0, 1], higher is better; None where it has none."""
        ...


ProblemKind = Literal["exception", "timeout", "crash", "invalid_score", "wrong_count", "no_answer"]


@dataclass(frozen=True, slots=True)
class ScoreProblem:
    """Why a score is missing.

    Attributes:
        index: Position of the candidate; None if all of them are affected.
        kind: ``exception``, ``timeout``, ``crash`` (its process died), ``invalid_score`` (NaN, out of range, no
            number), ``wrong_count`` (not one score per candidate), ``no_answer`` (it scores answers, there was none).
        detail: One sentence.
    """

    index: int | None
    kind: ProblemKind
    detail: str

    def __str__(self) -> str:
        where = "all candidates" if self.index is None else f"candidate {self.index}"
        return f"{where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """Checked scores and what went wrong; a verifier may also leave a score missing without a problem.

    Attributes:
        scores: One per candidate, finite and in [0, 1]; None is missing, never 0.
        problems: In the order of the candidates.
    """

    scores: tuple[float | None, ...]
    problems: tuple[ScoreProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierInfo:
    """What people need to know to choose a verifier.

    Attributes:
        name: As in ``--verifier``.
        summary: One sentence, from its docstring.
        parameters: Their names with defaults as text; ``"required"`` where there is none.
        source: The paper it implements; from the class variable ``source``.
        needs: What it cannot work without (model roles, capabilities); from the class variable ``needs``.
    """

    name: str
    summary: str
    parameters: Mapping[str, str]
    source: str = ""
    needs: tuple[str, ...] = ()


def describe_verifier(name: str, kind: type[Verifier]) -> VerifierInfo:
    """What the class says of itself."""
    summary = " ".join((inspect.getdoc(kind) or "").strip().split("\n\n")[0].split())
    return VerifierInfo(
        name=name,
        summary=summary,
        parameters=_parameters(kind),
        source=getattr(kind, "source", ""),
        needs=tuple(getattr(kind, "needs", ())),
    )


def installed_verifiers() -> dict[str, type[Verifier]]:
    """All registered verifier classes by name, sorted; importing one that is broken raises its error."""
    found = entry_points(group=ENTRY_POINTS)
    return {entry.name: entry.load() for entry in sorted(found, key=lambda entry: entry.name)}


def open_verifier(name: str, **parameters: Any) -> Verifier:
    """A registered verifier with checked parameters. Any: each class names the types of its own.

    Raises:
        UnknownName: There is none of that name.
        InvalidRequest: A parameter does not exist, is missing, or has a value of the wrong type.
    """
    matching = tuple(entry_points(group=ENTRY_POINTS, name=name))
    if not matching:
        raise UnknownName(kind="verifier", name=name, known=entry_points(group=ENTRY_POINTS).names)
    kind: type[Verifier] = matching[0].load()
    return build_verifier(name, kind, parameters)


def build_verifier(name: str, kind: type[Any], parameters: Mapping[str, Any]) -> Verifier:
    """An instance of the class ``kind``; see `open_verifier` for the errors.

    Any: to mypy a protocol is never a dataclass, though its implementations may be.
    """
    known = _parameters(kind)
    for given in parameters:
        if given not in known:
            listing = ", ".join(known) or "none"
            raise InvalidRequest(
                f"verifier {name!r} has no parameter {given!r}; it has: {listing}", field=given, value=parameters[given]
            )
    for required in (parameter for parameter, default in known.items() if default == _REQUIRED):
        if required not in parameters:
            raise InvalidRequest(f"verifier {name!r} needs the parameter {required!r}", field=required)
    if not is_dataclass(kind):
        plain: Verifier = kind(**parameters)
        return plain
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        verifier: Verifier = adapter.validate_python(dict(parameters))
        return verifier
    except ValidationError as error:
        problem = error.errors()[0]
        where = str(problem["loc"][0]) if problem["loc"] else "parameters"
        raise InvalidRequest(
            f"verifier {name!r}: {where}={parameters.get(where)!r} is not valid: {problem['msg']}",
            field=where,
            value=parameters.get(where),
        ) from None


_REQUIRED = "required"


def _parameters(kind: type[Any]) -> dict[str, str]:
    if not is_dataclass(kind):
        signature = inspect.signature(kind).parameters
        return {name: _shown(parameter.default, parameter.empty) for name, parameter in signature.items()}
    defaults: dict[str, str] = {}
    for parameter in fields(kind):
        if parameter.init and parameter.default_factory is not MISSING:
            defaults[parameter.name] = repr(parameter.default_factory())
        elif parameter.init:
            defaults[parameter.name] = _shown(parameter.default, MISSING)
    return defaults


def _shown(default: object, absent: object) -> str:
    return _REQUIRED if default is absent else repr(default)
