"""Stands between the controller and verifiers, which may hang, crash or return nonsense.

A score that cannot be had or trusted is missing (None) with a recorded reason, never 0. What it cannot guard against
is a verifier object that blocks the event loop itself.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Real

from orchestrator.callable_scoring import MAX_ABANDONED_THREADS, NoAnswerToScore, ScoresOne, scorer_of
from orchestrator.errors import BudgetExhausted, CallerError, InvalidRequest, LeaseLost, StoreFailed, VerifierHung
from orchestrator.isolation import WorkerDied
from orchestrator.verifier import Candidate, Meter, ProblemKind, ScoreProblem, ScoreReport, Verifier

_ROUNDING = 1e-6
"""Scores this little outside [0, 1] come from floating point and are clipped."""

_NOT_ITS_FAULT = (CallerError, BudgetExhausted, StoreFailed, LeaseLost)
"""Errors of the controller's own that pass through a verifier which buys model work."""


def guarded(
    verifier: Verifier | Callable[..., object], *, name: str | None = None, timeout_s: float = 30.0
) -> GuardedVerifier:
    """A verifier that is safe to call.

    Args:
        verifier: A `Verifier`, or a callable that returns a number in [0, 1] or a bool for one candidate. A callable
            takes a `Candidate`, or parameters named like its fields, as in ``def is_right(problem, answer)``. Async
            callables are awaited; functions that another process can import run in one that is killed when they take
            too long; closures, lambdas and methods run in a thread that is abandoned then.
        name: The name its scores are kept under; by default its own.
        timeout_s: Most seconds for one call: of a verifier's `score`, or of a callable for one candidate.

    Raises:
        InvalidRequest: It is neither, or the callable's parameters cannot be filled.
    """
    if isinstance(verifier, Verifier) and not inspect.isclass(verifier):
        return GuardedVerifier(name or verifier.name, verifier=verifier, timeout_s=timeout_s)
    if not callable(verifier) or inspect.isclass(verifier):
        raise InvalidRequest(f"{verifier!r} is no verifier and no function", field="verifier")
    own_name = getattr(verifier, "__name__", type(verifier).__name__).replace("<lambda>", "callable")
    return GuardedVerifier(name or own_name, scorer=scorer_of(verifier), timeout_s=timeout_s)


class GuardedVerifier:
    """A verifier or callable behind its guard; itself a `Verifier`."""

    def __init__(
        self, name: str, *, timeout_s: float, verifier: Verifier | None = None, scorer: ScoresOne | None = None
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._verifier = verifier
        self._scorer = scorer

    @property
    def name(self) -> str:
        """The name its scores are kept under."""
        return self._name

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        """The scores of `report`, without the reasons."""
        return (await self.report(candidates, meter)).scores

    async def report(
        self, candidates: Sequence[Candidate], meter: Meter, *, deadline_s: float | None = None
    ) -> ScoreReport:
        """Checked scores, and why those that are missing are.

        Args:
            candidates: What to score.
            meter: Where the verifier buys model work.
            deadline_s: Seconds from now after which nothing is waited for; scores had by then are kept.

        Raises:
            VerifierHung: Four of its threads were abandoned and still run.
            CallerError, BudgetExhausted, StoreFailed, LeaseLost: From the meter.
        """
        if not candidates:
            return ScoreReport(())
        if self._verifier is not None:
            limit_s = self._timeout_s if deadline_s is None else min(self._timeout_s, deadline_s)
            return await self._report_all(self._verifier, candidates, meter, limit_s)
        assert self._scorer is not None
        return await self._report_each(self._scorer, candidates, deadline_s)

    async def aclose(self) -> None:
        """Ends its workers, and closes the verifier if it can be closed."""
        if self._scorer is not None:
            await self._scorer.aclose()
        closing = getattr(self._verifier, "aclose", None)
        if closing is not None:
            await closing()

    async def _report_all(
        self, verifier: Verifier, candidates: Sequence[Candidate], meter: Meter, limit_s: float
    ) -> ScoreReport:
        def missing(kind: ProblemKind, detail: str) -> ScoreReport:
            return ScoreReport((None,) * len(candidates), (ScoreProblem(None, kind, detail),))

        deadline = asyncio.timeout(limit_s)
        try:
            async with deadline:
                values = await verifier.score(candidates, meter)
        except _NOT_ITS_FAULT:
            raise
        except TimeoutError as error:
            if deadline.expired():
                return missing("timeout", f"verifier {self._name!r} took longer than {limit_s:g} s")
            return missing("exception", _described(self._name, error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # what a verifier does wrong is reported
            _raise_if_cancelled(error)
            return missing("exception", _described(self._name, error))
        try:
            values = list(values)
        except TypeError:
            return missing(
                "wrong_count", f"verifier {self._name!r} returned {_shown(values)}, not a sequence of scores"
            )
        if len(values) != len(candidates):
            detail = f"verifier {self._name!r} returned {len(values)} scores for {len(candidates)} candidates"
            return missing("wrong_count", detail)
        checked = [
            (None, None) if value is None else _checked(self._name, index, value) for index, value in enumerate(values)
        ]
        return _joined(checked)

    async def _report_each(
        self, scorer: ScoresOne, candidates: Sequence[Candidate], deadline_s: float | None
    ) -> ScoreReport:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._score_one(scorer, index, candidate, deadline_s))
                for index, candidate in enumerate(candidates)
            ]
        if scorer.num_abandoned >= MAX_ABANDONED_THREADS:
            raise VerifierHung(
                f"verifier {self._name!r} hangs: {scorer.num_abandoned} of its threads do not return; make it a "
                "function at the top of a module, so that it runs in a process that can be killed",
                verifier=self._name,
                num_threads=scorer.num_abandoned,
            )
        return _joined([task.result() for task in tasks])

    async def _score_one(
        self, scorer: ScoresOne, index: int, candidate: Candidate, deadline_s: float | None
    ) -> _Checked:
        deadline = asyncio.timeout(deadline_s)
        try:
            async with deadline:
                value = await scorer(candidate, self._timeout_s)
        except TimeoutError:
            limit_s = deadline_s if deadline.expired() and deadline_s is not None else self._timeout_s
            return None, ScoreProblem(index, "timeout", f"verifier {self._name!r} took longer than {limit_s:g} s")
        except NoAnswerToScore:
            return None, ScoreProblem(index, "no_answer", f"verifier {self._name!r} scores answers, there is none")
        except WorkerDied as error:
            return None, ScoreProblem(index, "crash", _described(self._name, error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # what a verifier does wrong is reported
            _raise_if_cancelled(error)
            return None, ScoreProblem(index, "exception", _described(self._name, error))
        return _checked(self._name, index, value)


_Checked = tuple[float | None, ScoreProblem | None]


def _raise_if_cancelled(error: BaseException) -> None:
    """A cancellation that nobody asked for is the verifier's own doing."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


def _checked(name: str, index: int, value: object) -> _Checked:
    if inspect.iscoroutine(value):
        value.close()
    number = _number(value)
    if number is None or not -_ROUNDING <= number <= 1 + _ROUNDING:
        detail = f"verifier {name!r} returned {_shown(value)}, not a number from 0 to 1"
        return None, ScoreProblem(index, "invalid_score", detail)
    return min(1.0, max(0.0, number)), None


def _number(value: object) -> float | None:
    """A finite float; numpy's scalars count, strings do not."""
    if not isinstance(value, Real) and hasattr(value, "item"):
        try:
            value = value.item()
        except Exception:  # noqa: BLE001  # an array of several numbers, or anything at all
            return None
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except Exception:  # noqa: BLE001  # integers too large for a float, hostile subclasses
        return None
    return number if math.isfinite(number) else None


def _joined(checked: Sequence[_Checked]) -> ScoreReport:
    return ScoreReport(
        tuple(score for score, _ in checked), tuple(problem for _, problem in checked if problem is not None)
    )


def _described(name: str, error: BaseException) -> str:
    return f"verifier {name!r}: {type(error).__name__}: {_shown_text(error)}"


def _shown(value: object) -> str:
    try:
        return repr(value)[:100]
    except Exception:  # noqa: BLE001  # a __repr__ that raises
        return f"a {type(value).__name__}"


def _shown_text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except Exception:  # noqa: BLE001  # a __str__ that raises
        return "(its message cannot be shown)"
