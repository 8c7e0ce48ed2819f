import asyncio
import importlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest

from orchestrator.engine import Message, Prompt
from orchestrator.errors import BudgetExhausted, CapabilityMissing, InvalidRequest, VerifierHung
from orchestrator.scoring_guard import guarded
from orchestrator.verifier import Candidate, ScoreReport, Verifier

USER_MODULE = """
import os, time

def by_answer(problem, answer):
    return answer == "4"

def hangs(text):
    if text == "hang":
        while True:
            pass
    return 0.5

def crashes(candidate):
    os._exit(3)

def pid(candidate):
    raise LookupError(os.getpid())
"""


@pytest.fixture
def user(tmp_path, monkeypatch) -> Iterator[ModuleType]:
    (tmp_path / "user_scorers.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("user_scorers")
    del sys.modules["user_scorers"]


def candidate(text: str = "2 + 2 = 4", *, answer: str | None = "4") -> Candidate:
    prompt = Prompt((Message("user", "p"),))
    return Candidate(problem="p", text=text, answer=answer, answer_class=answer, is_final=True, prompt=prompt)


class Returns:
    """A verifier that returns, or raises, what it is told to."""

    name = "returns"

    def __init__(self, outcome: object) -> None:
        self._outcome = outcome

    async def score(self, candidates, meter):
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        if self._outcome == "hang":
            await asyncio.sleep(60)
        return self._outcome


async def report_of(
    verifier: Verifier | Callable[..., object], *candidates: Candidate, timeout_s: float = 5, **options: float
) -> ScoreReport:
    guard = guarded(verifier, timeout_s=timeout_s)
    try:
        return await guard.report(candidates or (candidate(),), None, **options)  # type: ignore[arg-type]
    finally:
        await guard.aclose()


@pytest.mark.parametrize(
    ("value", "score"),
    [(True, 1.0), (False, 0.0), (0.25, 0.25), (1, 1.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0), (1 + 1e-9, 1.0)],
)
async def test_numbers_and_bools_in_range_are_scores(value, score):
    report = await report_of(lambda given: value)
    assert report == ScoreReport((score,))


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -0.1, 1.5, "0.5", None, [0.5], 10**400, np.array([0.1, 0.2]), 1j], ids=repr
)
async def test_anything_else_is_a_missing_score_with_a_reason_and_never_zero(value):
    report = await report_of(lambda given: value)
    assert report.scores == (None,)
    assert [problem.kind for problem in report.problems] == ["invalid_score"]
    of_object = await report_of(Returns([0.5, value]), candidate(), candidate())
    assert of_object.scores == (0.5, None)
    assert len(of_object.problems) == (value is not None)  # a verifier may say that it has no score


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (ValueError("bad"), "exception"),
        (TimeoutError(), "exception"),
        (asyncio.CancelledError(), "exception"),
        ([0.5, 0.5], "wrong_count"),
        (0.5, "wrong_count"),
        ("hang", "timeout"),
    ],
    ids=repr,
)
async def test_a_verifier_that_fails_leaves_all_scores_missing(outcome, kind):
    report = await report_of(Returns(outcome), timeout_s=0.1)
    assert report.scores == (None,)
    assert [(problem.index, problem.kind) for problem in report.problems] == [(None, kind)]
    assert "returns" in str(report.problems[0])


async def test_errors_of_the_controller_pass_through_a_verifier():
    for error in (
        BudgetExhausted(limit="max_tokens", remaining=0, requested=1),
        CapabilityMissing(model="m", capability="log probabilities"),
    ):
        with pytest.raises(type(error)):
            await report_of(Returns(error))


async def test_parameters_are_filled_by_name_or_with_the_candidate():
    assert (await report_of(lambda problem, answer: (problem, answer) == ("p", "4"))).scores == (1.0,)
    assert (await report_of(lambda text: text == "2 + 2 = 4")).scores == (1.0,)
    assert (await report_of(lambda anything: anything.answer == "4")).scores == (1.0,)
    assert (await report_of(lambda candidate, text, scale=0.5: scale * (candidate.text == text))).scores == (0.5,)
    with pytest.raises(InvalidRequest, match="not \\(left, right\\)"):
        guarded(lambda left, right: 1.0)
    with pytest.raises(InvalidRequest):
        guarded(Returns)
    with pytest.raises(InvalidRequest):
        guarded(3)  # type: ignore[arg-type]


async def test_a_callable_that_scores_answers_is_not_asked_without_one():
    report = await report_of(lambda answer: 1.0, candidate(answer=None), candidate())
    assert report.scores == (None, 1.0)
    assert [(problem.index, problem.kind) for problem in report.problems] == [(0, "no_answer")]


async def test_async_callables_run_concurrently_and_have_a_deadline():
    async def slow(text):
        await asyncio.sleep(60 if text == "hang" else 0.1)
        return 1.0

    started = time.monotonic()
    report = await report_of(slow, *[candidate()] * 5, candidate("hang"), timeout_s=0.5)
    assert time.monotonic() - started < 2
    assert report.scores == (1.0,) * 5 + (None,)
    assert [(problem.index, problem.kind) for problem in report.problems] == [(5, "timeout")]


async def test_an_importable_function_runs_in_another_process_that_is_killed(user):
    assert (await report_of(user.by_answer, candidate(), candidate(answer="5"))).scores == (1.0, 0.0)
    report = await report_of(user.hangs, candidate("hang"), candidate(), timeout_s=0.5)
    assert report.scores == (None, 0.5)
    assert report.problems[0].kind == "timeout"
    assert (await report_of(user.crashes)).problems[0].kind == "crash"
    assert "LookupError" in (problem := (await report_of(user.pid)).problems[0]).detail
    assert problem.kind == "exception"


async def test_a_function_no_other_process_can_import_falls_back_to_a_thread(user, tmp_path):
    (tmp_path / "user_scorers.py").unlink()
    assert (await report_of(user.by_answer)).scores == (1.0,)


async def test_closures_that_hang_are_abandoned_and_the_fourth_fails_the_job():
    release = threading.Event()
    guard = guarded(lambda text: release.wait(30) if text == "hang" else 0.5, timeout_s=0.1)
    hanging = candidate("hang")
    report = await guard.report([hanging, candidate(), hanging, hanging], None)  # type: ignore[arg-type]
    assert report.scores == (None, 0.5, None, None)
    with pytest.raises(VerifierHung) as raised:
        await guard.report([hanging], None)  # type: ignore[arg-type]
    assert raised.value.fields()["verifier"] == "callable"
    release.set()
    await guard.aclose()


async def test_a_thread_that_ends_the_program_is_a_missing_score():
    report = await report_of(lambda given: sys.exit(1))
    assert "SystemExit" in report.problems[0].detail


async def test_scores_had_by_the_deadline_are_kept():
    async def by_length(text):
        await asyncio.sleep(len(text))
        return 1.0

    report = await report_of(by_length, candidate(""), candidate("x" * 60), timeout_s=60, deadline_s=0.2)
    assert report.scores == (1.0, None)
    assert report.problems[0].kind == "timeout"


async def test_cancelling_the_controller_cancels_the_verifier():
    guard = guarded(Returns("hang"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await guard.report([candidate()], None)  # type: ignore[arg-type]


async def test_the_guard_is_a_verifier_itself():
    guard = guarded(Returns([0.5]), name="mine")
    assert isinstance(guard, Verifier)
    assert guard.name == "mine"
    assert await guard.score([candidate()], None) == (0.5,)  # type: ignore[arg-type]
    assert await guard.score([], None) == ()  # type: ignore[arg-type]
