"""Drives one job: sends outcomes into its policy, actions out of it, and sees to it that there is an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from orchestrator.actions import Action, Answer
from orchestrator.controller.answer_reserve import keep_answer_reserve
from orchestrator.controller.best_so_far import Conclusions, majority, no_answer, whole_text
from orchestrator.controller.checks import check_answer
from orchestrator.controller.context import Interruption, RunContext
from orchestrator.controller.other_actions import WaitingForHuman
from orchestrator.controller.past import account_for_the_past
from orchestrator.controller.performer import Performer, let_go
from orchestrator.controller.verdict import Ending, result_of
from orchestrator.errors import (
    BudgetExhausted,
    LeaseLost,
    PolicyFailed,
    ReplayDiverged,
    StoreFailed,
    TtcError,
    from_fields,
)
from orchestrator.events import Event
from orchestrator.isolation import KillablePool
from orchestrator.job import Result, StopReason
from orchestrator.policy import Policy, PolicyContext, PolicySpec, Query
from orchestrator.sampling import derived_seed
from orchestrator.scoring_guard import GuardedVerifier
from orchestrator.store import JobState
from orchestrator.tree import Node

_LOG = logging.getLogger(__name__)

_RESERVE_SHARE = 0.15
_MOST_RESERVE_S = 5.0
MAX_REFUSALS = 100
"""So many times in a row a policy is told that its budget is used up; then it is ended."""
MAX_IDLE_ACTIONS = 10_000
"""A policy that yields so many actions in a row without buying anything does not get anywhere."""
_CANCELLED = "cancelled"
_FROM_OUTSIDE = frozenset({StopReason.CANCELLED, StopReason.DEADLINE, StopReason.OVERRUN})
_ENDS_THE_RUN = (ReplayDiverged, StoreFailed, LeaseLost)


class JobRun:
    """One life of a job, from taking it over to its end (or to the end of this process).

    Args:
        run: Books, journal, tree.
        policy: Who decides.
        params: Its checked parameters.
        verifier: Finds a verifier by name.
        pool: Gives the processes for `orchestrator.actions.Compute`.
        is_offline: Replay from the journal alone; buys nothing and writes nothing.
    """

    def __init__(
        self,
        run: RunContext,
        policy: PolicySpec,
        params: BaseModel,
        *,
        verifier: Callable[[str], GuardedVerifier],
        pool: Callable[[], KillablePool],
        is_offline: bool = False,
    ) -> None:
        self._run = run
        self._policy = policy
        self._params = params
        self._is_offline = is_offline
        self._performer = Performer(run, verifier=verifier, pool=pool, is_offline=is_offline)
        self._position = 0
        self._is_late = False
        self._ended: tuple[int, TtcError] | None = None  # before which action the controller ended the policy, and why
        self._num_refusals = 0
        self._num_idle = 0
        self._bought = (0, 0, 0)

    def cancel(self) -> None:
        """Ends the job now; its best answer so far becomes the result."""
        error = BudgetExhausted(limit=_CANCELLED, remaining=0, requested=0)
        self._run.interrupt(StopReason.CANCELLED, error)

    def lose(self, error: LeaseLost) -> None:
        """Stops all work, as another controller has the job now; nothing more is written."""
        self._run.interrupt(StopReason.FAILED, error)

    async def run(self) -> Result:
        """Carries the job to its end; failures are in the result.

        Cancelling the task that awaits this is like losing the process, without its risks: all work stops, what it has
        cost is in the books, and the journal ends where it was, so that the job can be resumed.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._run.tasks = tasks
                return await self._live()
        except BaseException:
            self._performer.abandon()
            raise

    async def _live(self) -> Result:
        timers: list[asyncio.TimerHandle] = []
        try:
            if not self._is_offline:
                await account_for_the_past(self._run)
                keep_answer_reserve(self._run)
                timers = self._set_timers()
            ending = await self._play()
            await self._performer.aclose()
            if self._is_offline:
                self._recall_interruption()
            if ending.question is None and ending.answer is None:
                ending = await self._fall_back(ending)
        except TtcError as error:
            ending = Ending(error=error)
            if not self._position:
                self._ended = 0, error
        finally:
            for timer in timers:
                timer.cancel()
        return await self._conclude_job(ending)

    # -- before ------------------------------------------------------------------------------------------------

    def _set_timers(self) -> list[asyncio.TimerHandle]:
        left = self._run.remaining_s
        if left is None:
            return []
        loop = asyncio.get_running_loop()
        limit = self._run.spec.budget.max_seconds
        reserve = min(_MOST_RESERVE_S, (left if limit is None else limit) * _RESERVE_SHARE)
        return [
            loop.call_later(max(0.0, left - reserve), self._near_deadline),
            loop.call_later(left, self._at_deadline),
        ]

    def _near_deadline(self) -> None:
        tree = self._run.tree
        is_answered = any(node.answer is not None and tree.answers_query(node) for node in tree)
        has_answer = self._performer.proposal is not None or is_answered
        if not has_answer:
            self._at_deadline()

    def _at_deadline(self) -> None:
        error = BudgetExhausted(limit="max_seconds", remaining=self._run.remaining_s or 0.0, requested=0.0)
        self._run.note_limit(error)
        self._run.interrupt(StopReason.DEADLINE, error)

    # -- the policy --------------------------------------------------------------------------------------------

    async def _play(self) -> Ending:
        try:
            generator = self._start_policy()
        except Exception as raised:  # noqa: BLE001  # a policy is the user's code
            return Ending(error=self._policy_failed(raised))
        try:
            return await self._drive(generator)
        finally:
            _close(generator)

    async def _drive(self, generator: Policy) -> Ending:
        outcome: Any = None  # Any: outcomes differ by action
        error: TtcError | None = None
        while True:
            try:
                action = generator.send(outcome) if error is None else generator.throw(error)
            except StopIteration as stop:
                return self._returned(stop.value)
            except TtcError as raised:
                return Ending(error=raised)
            except Exception as raised:  # noqa: BLE001  # a policy is the user's code
                return Ending(error=self._policy_failed(raised))
            if (end := self._end_of_patience(error)) is not None:
                self._ended = self._position, end
                return Ending(error=end)
            outcome, error = None, None
            try:
                outcome = await self._perform(action)
            except WaitingForHuman as waiting:
                return Ending(question=waiting.question)
            except _ENDS_THE_RUN as raised:
                return Ending(error=raised)
            except TtcError as raised:
                if self._must_end() or self._was_cancelled(raised):
                    return Ending(error=raised)
                error = raised

    def _returned(self, value: Any) -> Ending:  # Any: whatever the policy returns
        try:
            return Ending(answer=self._as_answer(value))
        except PolicyFailed as error:
            return Ending(error=error)

    def _policy_failed(self, raised: Exception) -> PolicyFailed:
        _LOG.info("policy raised", exc_info=raised, extra={"policy": self._policy.name})
        return PolicyFailed(f"policy {self._policy.name!r} raised {type(raised).__name__}: {raised}")

    def _end_of_patience(self, error: TtcError | None) -> TtcError | None:
        """Why the policy's next action is not performed: the job must stop, or the policy does not get anywhere.

        A replay ends where the journal says that its job was ended.
        """
        if self._is_offline:
            ended = (self._run.recording.final or {}).get("ended")
            return from_fields(ended["error"]) if ended is not None and ended["a"] == self._position else None
        interruption = self._run.interruption
        if interruption is not None and self._must_end():
            return interruption.error
        usage = self._run.usage
        bought = (usage.model_calls, usage.tool_calls, usage.verifier_calls)
        if bought != self._bought or self._run.recording.actions.get(self._position - 1) is not None:
            self._bought, self._num_refusals, self._num_idle = bought, 0, 0
            return None
        self._num_idle += 1
        self._num_refusals += isinstance(error, BudgetExhausted)
        if self._num_refusals >= MAX_REFUSALS:
            return error
        if interruption is not None and self._num_idle >= MAX_REFUSALS:
            return interruption.error
        if self._num_idle >= MAX_IDLE_ACTIONS:
            return PolicyFailed(
                f"policy {self._policy.name!r} yielded {self._num_idle} actions in a row that buy nothing"
            )
        return None

    def _was_cancelled(self, error: TtcError) -> bool:
        """Whether a replay has come to where its job was cancelled."""
        return self._is_offline and isinstance(error, BudgetExhausted) and error.limit == _CANCELLED

    def _must_end(self) -> bool:
        interruption = self._run.interruption
        return interruption is not None and interruption.reason in {StopReason.CANCELLED, StopReason.FAILED}

    def _start_policy(self) -> Policy:
        import numpy as np  # here, as it takes a tenth of a second

        spec = self._run.spec
        context: PolicyContext[Any] = PolicyContext(  # Any: parameters differ by policy
            params=self._params,
            rng=np.random.default_rng(derived_seed(spec.seed, "policy")),
            target_confidence=spec.budget.target_confidence,
            roles=self._run.fleet.roles,
            token_cap=spec.budget.max_output_tokens,
        )
        query = Query(problem=spec.problem, root=self._run.tree.root, cue=self._run.reader.cue)
        return self._policy.function(query, context)

    async def _perform(self, action: Action) -> Any:  # Any: outcomes differ by action
        position, self._position = self._position, self._position + 1
        await asyncio.sleep(0)  # timers and cancellations get their turn, whatever the policy does
        return await self._performer.perform(position, action)

    def _as_answer(self, value: Answer | Node | str | None) -> Answer | None:
        if isinstance(value, str):
            value = Answer(value)
        elif isinstance(value, Node):
            value = Answer(value.answer if value.answer is not None else value.trajectory, value)
        elif value is not None and not isinstance(value, Answer):
            raise PolicyFailed(f"policy {self._policy.name!r} returned {type(value).__name__}, not an answer")
        return check_answer(value) if value is not None and value.text is not None else None

    # -- after -------------------------------------------------------------------------------------------------

    async def _fall_back(self, ending: Ending) -> Ending:
        """The best answer there is: the last proposal, else the majority, else a conclusion of what was thought."""
        conclusions = Conclusions(self._run, self._perform)
        answer = self._performer.proposal or majority(self._run.tree)
        if answer is None and self._is_offline:
            answer, error = await conclusions.recorded(self._position)
            ending = Ending(error=ending.error or error)
        elif answer is None and self._may_conclude(ending):
            answer, error = await conclusions.forced()
            ending = Ending(error=ending.error or error)
        if answer is None:
            answer = whole_text(self._run.tree)
        if answer is not None or ending.error is not None:
            return replace(ending, answer=answer)
        return Ending(error=no_answer(self._run))

    def _recall_interruption(self) -> None:
        """A replay has no clock and nobody who cancels: what stopped the job from outside is in its journal."""
        final = (self._run.recording.final or {}).get("result", {})
        if final.get("stop_reason") in _FROM_OUTSIDE:
            reason = StopReason(final["stop_reason"])
            error = BudgetExhausted(limit=final["limited_by"] or reason, remaining=0, requested=0)
            self._run.limited_by = self._run.limited_by or final["limited_by"]
            self._run.interruption = Interruption(reason, error)

    def _may_conclude(self, ending: Ending) -> bool:
        if self._must_end() or not self._run.reader.cue:
            return False
        interruption = self._run.interruption
        if interruption is not None:
            if interruption.reason is not StopReason.DEADLINE or not self._run.remaining_s:
                return False
            self._is_late = True
            self._run.interruption = None  # the time kept back for this; the hard deadline will set it again
        return ending.error is None or isinstance(ending.error, BudgetExhausted)

    async def _conclude_job(self, ending: Ending) -> Result:
        result = result_of(self._run, ending, is_late=self._is_late)
        if self._is_offline:
            return result
        if not isinstance(ending.error, LeaseLost | StoreFailed):
            result = await self._stored(result)
        if self._run.publish is not None and not isinstance(result.error, LeaseLost):  # then it goes on elsewhere
            self._run.publish(Event("result", {"result": result}))
        for engine in self._run.fleet:
            await let_go(engine, self._run.job_id)
        return result

    async def _stored(self, result: Result) -> Result:
        """The result, which is a failure if it cannot be made durable."""
        told = result.to_json()
        if result.state is not JobState.WAITING:
            row: dict[str, Any] = {"result": told, "t": round(self._run.elapsed_s, 3)}  # Any: JSON values
            if self._ended is not None:
                position, error = self._ended
                row["ended"] = {"a": position, "error": error.fields()}
            self._run.recorder.add("final", row)
        try:
            await self._run.recorder.flush(state=result.state, result=told)
        except TtcError as error:
            _LOG.warning("the result could not be stored", extra={"job_id": self._run.job_id})
            return replace(result, state=JobState.FAILED, stop_reason=StopReason.FAILED, error=result.error or error)
        return result


def _close(generator: Policy) -> None:
    try:
        generator.close()
    except Exception:  # noqa: BLE001  # a policy is the user's code
        _LOG.warning("the policy yields or raises while it is being closed", exc_info=True)
