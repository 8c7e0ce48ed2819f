"""Drives one job: sends outcomes into its policy, actions out of it, and sees to it that there is an answer."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel

from orchestrator.actions import Action, Answer, Conclude
from orchestrator.budget import Amount
from orchestrator.controller.context import Interruption, RunContext
from orchestrator.controller.expansion import SHORTEST_GRANT_TOKENS
from orchestrator.controller.performer import Performer, WaitingForHuman, check_answer, let_go
from orchestrator.controller.purchase import amount_of, prompt_bound, sample_amount, sample_usage
from orchestrator.engine import Engine
from orchestrator.errors import (
    BudgetExhausted,
    BudgetTooSmall,
    ContextOverflow,
    LeaseLost,
    NoAnswer,
    PolicyFailed,
    ReplayDiverged,
    StoreFailed,
    TtcError,
    from_fields,
)
from orchestrator.events import Event
from orchestrator.isolation import KillablePool
from orchestrator.job import Result, StopReason
from orchestrator.journal import LOST_ALLOWANCE_TOKENS, OpenRequest
from orchestrator.policy import Policy, PolicyContext, PolicySpec, Query
from orchestrator.sampling import derived_seed
from orchestrator.scoring_guard import GuardedVerifier
from orchestrator.store import JobState
from orchestrator.tree import Node, path_tokens
from orchestrator.usage import Usage

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


@dataclass(frozen=True, slots=True)
class _Ending:
    """How the policy's part of the job ended."""

    answer: Answer | None = None
    error: TtcError | None = None
    question: str | None = None


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
                await self._account_for_the_past()
                self._keep_answer_reserve()
                timers = self._set_timers()
            ending = await self._play()
            await self._performer.aclose()
            if self._is_offline:
                self._recall_interruption()
            if ending.question is None and ending.answer is None:
                ending = await self._fall_back(ending)
        except TtcError as error:
            ending = _Ending(error=error)
            if not self._position:
                self._ended = 0, error
        finally:
            for timer in timers:
                timer.cancel()
        return await self._conclude_job(ending)

    # -- before ------------------------------------------------------------------------------------------------

    async def _account_for_the_past(self) -> None:
        """Charges what earlier lives have paid, and what was in flight when the last one ended."""
        recording = self._run.recording
        self._run.usage = recording.usage
        requests = recording.open_requests()
        lost = Usage()
        for position, request, units in requests:
            lost += self._lost_in(position, request, units)
        self._run.ledger.take_over(amount_of(recording.usage + lost), known_above=self._run.known_above)
        self._run.usage += lost
        if not requests:
            return
        names = [request.data["r"] for _, request, _ in requests]
        await self._run.recorder.write("lost", {"usage": lost.to_json(), "requests": names})

    def _lost_in(self, position: int, request: OpenRequest, units: list[int]) -> Usage:
        data, mark = request.data, request.mark
        if "reserved" in data:
            amount = Amount.from_json(data["reserved"])
            return Usage(
                prompt_tokens=amount.total_tokens - amount.output_tokens,
                output_tokens=amount.output_tokens,
                model_calls=amount.model_calls,
                tool_calls=amount.tool_calls,
                flops=amount.flops,
                picodollars=amount.picodollars,
                lost_tokens=amount.total_tokens,
                is_estimated=True,
            )
        action = self._run.recording.actions[position].action or {}
        _, engine = self._run.fleet.resolve(action.get("expand", action).get("model", "small"))
        description = engine.describe()
        context: int = mark["prompt"] if "prompt" in mark else data["prompt"]
        lost = Usage()
        for unit, grant in zip(data["units"], data["grants"], strict=True):
            if unit not in units:
                continue
            seen = mark.get("tokens", {}).get(str(unit), 0) + LOST_ALLOWANCE_TOKENS
            tokens = min(grant, seen) if description.counts_exactly else grant
            pays_prompt = unit == data["units"][0]
            usage = sample_usage(
                description.cost,
                context_tokens=context,
                prompt_tokens=context if pays_prompt else 0,
                cached_tokens=mark.get("cached", 0) if pays_prompt else 0,
                output_tokens=tokens,
                is_estimated=True,
            )
            usage += Usage.from_json(data.get("before", {}).get(str(unit), {}))
            lost += replace(usage, lost_tokens=usage.total_tokens)
        return lost

    def _keep_answer_reserve(self) -> None:
        """Holds back what stating an answer costs, so that a job that is cut off still has one.

        Raises:
            BudgetTooSmall: Not even that fits.
            ContextOverflow: The model cannot read the problem.
        """
        budget = self._run.spec.budget
        _, engine = self._run.fleet.resolve(self._main_role())
        context = prompt_bound(engine, self._run.tree.root.prompt(forced=self._run.reader.cue))
        length = engine.describe().context_length
        if context + 1 > length:
            raise ContextOverflow(model=engine.describe().name, prompt_tokens=context, context_length=length)
        wanted = min(budget.reserve_tokens, length - context)
        hold = _conclusion_amount(engine, context, wanted)
        caps = budget.caps()
        if caps.get("model_calls") == 1:
            hold = replace(hold, model_calls=0)  # the one call is better spent on a whole sample
        if not self._run.recording.actions:
            for name, cap in caps.items():
                if getattr(hold, name) > cap:
                    raise _too_small(name, cap, getattr(hold, name))
        self._run.ledger.hold(hold)

    def _main_role(self) -> str:
        return "small" if "small" in self._run.fleet.roles else next(iter(self._run.fleet.models))

    def _set_timers(self) -> list[asyncio.TimerHandle]:
        left = self._run.remaining_s
        limit = self._run.spec.budget.max_seconds
        if left is None or limit is None:
            return []
        loop = asyncio.get_running_loop()
        reserve = min(_MOST_RESERVE_S, limit * _RESERVE_SHARE)
        return [
            loop.call_later(max(0.0, left - reserve), self._near_deadline),
            loop.call_later(left, self._at_deadline),
        ]

    def _near_deadline(self) -> None:
        has_answer = self._performer.proposal is not None or any(node.answer for node in self._run.tree)
        if not has_answer:
            self._at_deadline()

    def _at_deadline(self) -> None:
        error = BudgetExhausted(limit="max_seconds", remaining=self._run.remaining_s or 0.0, requested=0.0)
        self._run.note_limit(error)
        self._run.interrupt(StopReason.DEADLINE, error)

    # -- the policy --------------------------------------------------------------------------------------------

    async def _play(self) -> _Ending:
        try:
            generator = self._start_policy()
        except Exception as raised:  # noqa: BLE001  # a policy is the user's code
            return _Ending(error=self._policy_failed(raised))
        try:
            return await self._drive(generator)
        finally:
            _close(generator)

    async def _drive(self, generator: Policy) -> _Ending:
        outcome: Any = None  # Any: outcomes differ by action
        error: TtcError | None = None
        while True:
            try:
                action = generator.send(outcome) if error is None else generator.throw(error)
            except StopIteration as stop:
                return self._returned(stop.value)
            except TtcError as raised:
                return _Ending(error=raised)
            except Exception as raised:  # noqa: BLE001  # a policy is the user's code
                return _Ending(error=self._policy_failed(raised))
            if (end := self._end_of_patience(error)) is not None:
                self._ended = self._position, end
                return _Ending(error=end)
            outcome, error = None, None
            try:
                outcome = await self._perform(action)
            except WaitingForHuman as waiting:
                return _Ending(question=waiting.question)
            except _ENDS_THE_RUN as raised:
                return _Ending(error=raised)
            except TtcError as raised:
                if self._must_end() or self._was_cancelled(raised):
                    return _Ending(error=raised)
                error = raised

    def _returned(self, value: Any) -> _Ending:  # Any: whatever the policy returns
        try:
            return _Ending(answer=self._as_answer(value))
        except PolicyFailed as error:
            return _Ending(error=error)

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

    async def _fall_back(self, ending: _Ending) -> _Ending:
        """The best answer there is: the last proposal, else the majority, else a conclusion of what was thought."""
        answer = self._performer.proposal or self._majority()
        if answer is None and self._is_offline:
            answer, error = await self._recorded_conclusion()
            ending = _Ending(error=ending.error or error)
        elif answer is None and self._may_conclude(ending):
            answer, error = await self._forced_conclusion()
            ending = _Ending(error=ending.error or error)
        if answer is None:
            answer = self._whole_text()
        if answer is not None or ending.error is not None:
            return replace(ending, answer=answer)
        return _Ending(error=self._no_answer())

    def _recall_interruption(self) -> None:
        """A replay has no clock and nobody who cancels: what stopped the job from outside is in its journal."""
        final = (self._run.recording.final or {}).get("result", {})
        if final.get("stop_reason") in _FROM_OUTSIDE:
            reason = StopReason(final["stop_reason"])
            error = BudgetExhausted(limit=final["limited_by"] or reason, remaining=0, requested=0)
            self._run.limited_by = self._run.limited_by or final["limited_by"]
            self._run.interruption = Interruption(reason, error)

    def _majority(self) -> Answer | None:
        root = self._run.tree.root
        voters = [node for node in self._run.tree if node.answer_class is not None and node.root is root]
        votes = Counter(node.answer_class for node in voters)
        if not votes:
            return None
        winner, _ = votes.most_common(1)[0]
        total = votes.total()
        best = next(node for node in voters if node.answer_class == winner)
        rivals = tuple((name or "", count / total) for name, count in votes.most_common() if name != winner)
        return Answer(best.answer, best, alternatives=rivals)

    def _may_conclude(self, ending: _Ending) -> bool:
        if self._must_end() or not self._run.reader.cue:
            return False
        interruption = self._run.interruption
        if interruption is not None:
            if interruption.reason is not StopReason.DEADLINE or not self._run.remaining_s:
                return False
            self._is_late = True
            self._run.interruption = None  # the time kept back for this; the hard deadline will set it again
        return ending.error is None or isinstance(ending.error, BudgetExhausted)

    async def _forced_conclusion(self) -> tuple[Answer | None, TtcError | None]:
        role = self._main_role()
        _, engine = self._run.fleet.resolve(role)
        cue = self._run.reader.cue
        partials = sorted(
            (leaf for leaf in self._run.tree.leaves() if leaf.root is self._run.tree.root),
            key=lambda leaf: leaf.trajectory_tokens,
            reverse=True,
        )
        last_error: TtcError | None = None
        for node in (*partials[:1], self._run.tree.root):
            context = prompt_bound(engine, node.prompt(forced=cue))
            amount = _conclusion_amount(engine, context, SHORTEST_GRANT_TOKENS // 2)
            if context >= engine.describe().context_length or self._run.ledger.shortfall(amount, may_use_hold=True):
                continue
            answer, error = await self._concluded(Conclude(node, role))
            if answer is not None:
                return answer, None
            last_error = error or last_error
        return None, last_error

    async def _recorded_conclusion(self) -> tuple[Answer | None, TtcError | None]:
        """On replay: what the journal says was done after the policy."""
        last_error: TtcError | None = None
        while (recorded := self._run.recording.actions.get(self._position)) is not None:
            action = recorded.action
            if action is None or action["type"] != Conclude.__name__ or action["node"] not in self._run.tree:
                break
            answer, error = await self._concluded(Conclude(self._run.tree[action["node"]], action["model"]))
            if answer is not None:
                return answer, None
            last_error = error or last_error
        return None, last_error

    async def _concluded(self, action: Conclude) -> tuple[Answer | None, TtcError | None]:
        try:
            concluded: Node | None = await self._perform(action)
        except TtcError as error:
            return None, error
        if concluded is None or concluded.answer is None:
            return None, None
        return Answer(concluded.answer, concluded), None

    def _whole_text(self) -> Answer | None:
        """Without any extractable answer, a finished text is the answer (an open question, a poem)."""
        finished = [node for node in self._run.tree if node.is_final and node.root is self._run.tree.root]
        if not finished:
            return None
        best = max(finished, key=lambda node: (node.logprob is not None, node.logprob or 0.0))
        return Answer(best.trajectory, best)

    def _no_answer(self) -> NoAnswer:
        texts = sum(not node.is_root for node in self._run.tree)
        limit = self._run.limited_by
        reason = f" before {limit} ran out" if limit else ""
        return NoAnswer(
            f"none of {texts} texts states an answer{reason}; raise the budget, or choose how answers are read",
            num_texts=texts,
            limited_by=limit,
        )

    async def _conclude_job(self, ending: _Ending) -> Result:
        result = self._result_of(ending)
        if self._is_offline:
            return result
        if not isinstance(ending.error, LeaseLost | StoreFailed):
            result = await self._stored(result)
        if self._run.publish is not None:
            self._run.publish(Event("result", {"result": result}))
        for engine in self._run.fleet:
            await let_go(engine, self._run.job_id)
        return result

    async def _stored(self, result: Result) -> Result:
        """The result, which is a failure if it cannot be made durable."""
        if result.state is not JobState.WAITING:
            row: dict[str, Any] = {"result": result.to_json(), "t": round(self._run.elapsed_s, 3)}  # Any: JSON values
            if self._ended is not None:
                position, error = self._ended
                row["ended"] = {"a": position, "error": error.fields()}
            self._run.recorder.add("final", row)
        try:
            await self._run.recorder.flush(state=result.state, result=result.to_json())
        except TtcError as error:
            _LOG.warning("the result could not be stored", extra={"job_id": self._run.job_id})
            return replace(result, state=JobState.FAILED, stop_reason=StopReason.FAILED, error=result.error or error)
        return result

    def _result_of(self, ending: _Ending) -> Result:
        run = self._run
        answer = ending.answer or Answer(None)
        unique, logical = run.tree.kv_tokens(run.root_tokens)
        usage = replace(
            run.usage,
            wall_s=round(run.elapsed_s, 4),
            unique_kv_tokens=unique,
            logical_kv_tokens=logical,
            max_sequential_tokens=path_tokens(run.tree.leaves()),
            peak_parallel_sequences=max(run.usage.peak_parallel_sequences, run.peak_sequences),
        )
        state, reason, error = self._verdict(ending)
        committed = run.tree.nodes.get(run.committed or "")
        return Result(
            job_id=run.job_id,
            state=state,
            answer=answer,
            stop_reason=reason,
            limited_by=run.limited_by,
            usage=usage,
            budget=run.spec.budget,
            tree=run.tree,
            error=error,
            question=ending.question,
            num_samples=run.num_samples,
            committed_text=_text_after(run.tree.leaves(), committed),
        )

    def _verdict(self, ending: _Ending) -> tuple[JobState, StopReason, TtcError | None]:
        interruption = self._run.interruption
        if ending.question is not None:
            return JobState.WAITING, StopReason.WAITING, None
        if interruption is not None and interruption.reason is StopReason.CANCELLED:
            return JobState.CANCELLED, StopReason.CANCELLED, None
        error = ending.error
        if interruption is not None and interruption.reason is StopReason.FAILED:
            return JobState.FAILED, StopReason.FAILED, error or interruption.error
        is_budget = isinstance(error, BudgetExhausted)
        if error is not None and not (is_budget and ending.answer is not None):
            return JobState.FAILED, StopReason.FAILED, error
        if interruption is not None:
            return JobState.SUCCEEDED, interruption.reason, None
        if self._is_late:
            return JobState.SUCCEEDED, StopReason.DEADLINE, None
        if is_budget:
            is_late = isinstance(error, BudgetExhausted) and error.limit == "max_seconds"
            return JobState.SUCCEEDED, StopReason.DEADLINE if is_late else StopReason.BUDGET, None
        return JobState.SUCCEEDED, StopReason.COMPLETED, None


def _conclusion_amount(engine: Engine, context: int, tokens: int) -> Amount:
    return sample_amount(
        engine.describe().cost, context_tokens=context, prompt_tokens=context, output_tokens=max(1, tokens)
    )


def _too_small(amount_name: str, cap: int, needed: int) -> BudgetTooSmall:
    scale = 1e-12 if amount_name == "picodollars" else 1
    names = {"picodollars": "max_usd"}
    return BudgetTooSmall(limit=names.get(amount_name, f"max_{amount_name}"), value=cap * scale, needed=needed * scale)


def _text_after(leaves: list[Node], committed: Node | None) -> str | None:
    """The text from the committed node on, along its first leaf."""
    if committed is None:
        return None
    for leaf in leaves:
        if committed in leaf.path():
            return leaf.trajectory
    return None


def _close(generator: Policy) -> None:
    try:
        generator.close()
    except Exception:  # noqa: BLE001  # a policy is the user's code
        _LOG.warning("the policy yields or raises while it is being closed", exc_info=True)
