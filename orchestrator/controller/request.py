"""One request to an engine: streams its samples, writes progress marks, and hands failed ones on to another attempt.

A sample whose attempt failed goes on, in a request of its own, from the text that has come in: nothing is emitted or
paid twice. Money for the first attempt is reserved by `orchestrator.controller.expansion`, for further ones here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from orchestrator.actions import Expand
from orchestrator.controller.context import RunContext
from orchestrator.controller.purchase import prompt_bound, sample_amount, sample_usage
from orchestrator.controller.told_logprobs import told_logprobs
from orchestrator.controller.unit import Stage, Unit
from orchestrator.engine import (
    MAX_UNREAD_TOKENS,
    Capability,
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    Prefilled,
)
from orchestrator.errors import BudgetExhausted, EngineFailed, LeaseLost, StoreFailed, TtcError
from orchestrator.job import StopReason
from orchestrator.journal import LOST_ALLOWANCE_TOKENS, MARK_SECONDS, MARK_TOKENS
from orchestrator.reply_form import FREE_FORM
from orchestrator.sampling import Sampling
from orchestrator.usage import Usage

_LOG = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
_FIRST_BACKOFF_S = 0.1


class Request:
    """Samples of one prompt, generated together.

    Args:
        run: The job.
        position: Number of the action.
        action: What was asked for.
        engine: Who generates.
        model: The engine's name in the fleet.
        units: The samples; the first pays for the prompt.
        sampling: How tokens are chosen.
        spawn: Runs another request for samples that have to be tried again.
        on_progress: Called when units are finished or have failed.
        always_reads_answer: Look for an answer also in samples that did not end by themselves.
        attempt: 0 for the first.
    """

    def __init__(
        self,
        run: RunContext,
        position: int,
        action: Expand,
        *,
        engine: Engine,
        model: str,
        units: Sequence[Unit],
        sampling: Sampling,
        spawn: Callable[[Request], None],
        on_progress: Callable[[], None],
        always_reads_answer: bool = False,
        attempt: int = 0,
    ) -> None:
        self._run = run
        self._position = position
        self._action = action
        self._engine = engine
        self._model = model
        self._description = engine.describe()
        self._units = list(units)
        self._sampling = sampling
        self._spawn = spawn
        self._on_progress = on_progress
        self._always_reads_answer = always_reads_answer
        is_free = always_reads_answer or not run.tree.answers_query(units[0].parent)
        self._form = FREE_FORM if is_free else run.spec.form
        self._attempt = attempt
        self.id = run.next_request_id()
        self._prompt = units[0].prompt(action.forced, self._description.tokenizer)
        self._context_tokens = prompt_bound(engine, self._prompt, tools=self._form.tools)
        self._cached_tokens = 0
        self._recomputed_tokens = 0
        self._has_read_prompt = False
        self._prompt_is_root = units[0].parent.is_root and not self._prompt.continuation
        self._was_sent = False
        self._longest_done = 0
        self._last_mark_at = 0.0
        self._is_cancelled = False
        self._is_forced = False
        self._num_live = 0
        self.task: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Sees every unit through to `Stage.FINISHED` or `Stage.FAILED`, or hands it on to another request."""
        self._num_live = len(self._live())
        self._run.sequences_changed(self._num_live)
        try:
            await self._guarded()
        except asyncio.CancelledError:
            self._close_forced()
            if not self._is_forced:
                raise
            assert self.task is not None, "a request that is forced to end runs in a task"
            self.task.uncancel()
        finally:
            self._run.sequences_changed(-self._num_live)
            self._on_progress()

    def cancel(self) -> None:
        """Asks the engine to end all samples, with exact counts; nothing is sent or tried again after it."""
        self._is_cancelled = True
        self._engine.cancel(self.id)

    def force(self) -> None:
        """Ends the request without waiting for the engine."""
        self._is_forced = True
        if self.task is not None:
            self.task.cancel()

    def _live(self) -> list[Unit]:
        return [unit for unit in self._units if unit.stage is Stage.RUNNING]

    async def _guarded(self) -> None:
        try:
            if self._attempt:
                await self._prepare_retry()
            if self._live() and not self._is_cancelled:
                self._note_dispatch()
                await self._run.recorder.flush()
            if self._is_cancelled:
                self._end_all()
            elif self._live():
                await self._stream()
        except EngineFailed as error:
            self._settle_failure(error)
        except (StoreFailed, LeaseLost) as error:
            self._engine.cancel(self.id)
            self._run.interrupt(StopReason.FAILED, error)
            self._fail(error)
        except TtcError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # an engine may raise anything; the job must end all the same
            _LOG.exception("engine raised an unexpected error", extra={"model": self._model})
            self._fail(EngineFailed(f"model {self._model!r} raised {error!r}", model=self._model, is_retryable=False))

    async def _prepare_retry(self) -> None:
        await self._run.clock.sleep(_FIRST_BACKOFF_S * 2 ** (self._attempt - 1))
        cost = self._description.cost
        for unit in self._live():  # one; a retry serves a single sample
            extra = sample_amount(
                cost, context_tokens=self._context_tokens, prompt_tokens=self._context_tokens, output_tokens=0
            )
            assert unit.reservation is not None, "a running sample has money"
            try:
                self._run.check_interruption()
                unit.reservation.grow(extra)
            except TtcError as error:
                if isinstance(error, BudgetExhausted):
                    self._run.note_limit(error)
                self._end(unit, FinishReason.CANCELLED, None)

    def _note_dispatch(self) -> None:
        live = self._live()
        data = {
            "a": self._position,
            "r": self.id,
            "units": [unit.index for unit in live],
            "grants": [unit.grant - unit.tokens_before for unit in live],
            "prompt": self._context_tokens,
        }
        before = {str(unit.index): unit.paid.to_json() for unit in live if unit.paid.model_calls}
        self._run.recorder.add("dispatch", data | ({"before": before} if before else {}))

    async def _stream(self) -> None:
        live = self._live()
        request = GenerateRequest(
            request_id=self.id,
            prompt=self._prompt,
            samples=tuple(unit.spec() for unit in live),
            sampling=self._sampling,
            stop=tuple(dict.fromkeys((*self._action.stop, *self._form.stop))),
            monitors=self._action.monitors,
            num_logprobs=max(self._action.num_logprobs, self._form.num_logprobs),
            json_schema=self._form.json_schema if self._can_hold_schema() else None,
            tools=self._form.tools,
            tree_id=self._run.job_id,
            cache_salt=self._run.spec.cache_salt,
            deadline_s=self._run.remaining_s,
        )
        self._last_mark_at = self._run.clock.monotonic()
        self._was_sent = True
        async with aclosing(self._engine.generate(request)) as events:  # type: ignore[type-var]  # engines use async generators
            async for event in events:
                if isinstance(event, Delta | Finished) and live[event.index].stage is not Stage.RUNNING:
                    continue  # the engine has said that this sample is over
                if isinstance(event, Delta):
                    await self._take(live[event.index], event)
                    if self._runs_away(live[event.index]):
                        self._engine.cancel(self.id)
                        self._end_all()
                        break
                elif isinstance(event, Finished):
                    await self._finish(live[event.index], event)
                    if not self._live():
                        break  # the engine need not be waited for to end its stream
                elif isinstance(event, Prefilled):
                    self._context_tokens = event.prompt_tokens
                    self._cached_tokens = event.cached_tokens
                    self._recomputed_tokens = event.recomputed_tokens
                    self._has_read_prompt = True
                    if self._prompt_is_root:
                        self._run.root_tokens[live[0].parent.id] = event.prompt_tokens
        if self._live():
            raise EngineFailed(f"model {self._model!r} ended its stream too early", model=self._model)

    def _can_hold_schema(self) -> bool:
        """Whether the engine can see to it that the reply has the wanted schema: it writes all of it, in one piece."""
        is_whole = not self._prompt.continuation and not self._action.stop
        return is_whole and Capability.GRAMMAR in self._description.capabilities

    @staticmethod
    def _runs_away(unit: Unit) -> bool:
        """Whether the engine pays no heed to the sample's limit; a little excess may be a matter of counting."""
        return unit.tokens_before + unit.tokens > unit.grant + MAX_UNREAD_TOKENS

    async def _take(self, unit: Unit, delta: Delta) -> None:
        unit.take(delta)
        if delta.text:
            self._tell(unit, delta)
        if not self._run.recorder.needs_marks:
            return
        now = self._run.clock.monotonic()
        # If it is lost, a sample of a server that does not count exactly is charged its whole grant, marked or not.
        is_far = self._description.counts_exactly and unit.tokens - unit.marked >= MARK_TOKENS
        if is_far or now - self._last_mark_at >= MARK_SECONDS:
            await self._mark(now)

    def _tell(self, unit: Unit, delta: Delta) -> None:
        is_answer = unit.node_id == self._run.answering
        tells_all = self._run.tells_all
        if not (tells_all or is_answer):
            return
        told: dict[str, object] = {"node": unit.node_id, "text": delta.text}
        if self._form.num_logprobs:
            told["logprobs"] = told_logprobs(self._engine, delta)
        if tells_all:
            self._run.emit("delta", {**told, "tokens": delta.num_tokens})
        if is_answer:
            self._run.emit("answer_delta", told)

    async def _mark(self, now: float) -> None:
        live = self._live()
        self._last_mark_at = now
        for unit in live:
            unit.marked = unit.tokens
        await self._run.recorder.write(
            "mark",
            {
                "a": self._position,
                "r": self.id,
                "prompt": self._context_tokens,
                "cached": self._cached_tokens,
                "tokens": {str(unit.index): unit.tokens for unit in live},
                "t": round(self._run.elapsed_s, 3),
            },
        )

    async def _finish(self, unit: Unit, event: Finished) -> None:
        unit.tokens = max(unit.tokens, event.output_tokens)
        unit.recomputed_tokens, unit.tree_kv_cells = event.recomputed_tokens, event.tree_kv_cells
        reason, unit.tool_calls = event.reason, event.tool_calls
        if reason is FinishReason.STOP and event.detail in set(self._form.stop).difference(self._action.stop):
            reason = FinishReason.END  # the caller's own: the reply is complete, and ends before it
            unit.end_before(event.detail or "")
        self._end(unit, reason, event.detail, is_estimated=event.is_estimated)
        await self._run.recorder.flush()

    def _end(self, unit: Unit, reason: FinishReason, detail: str | None, *, is_estimated: bool = False) -> None:
        """The sample is over: builds its node, reads its answer, notes both in the journal."""
        unit.usage = self._usage_of(unit, is_estimated=is_estimated)
        node = unit.build_node(
            forced=self._action.forced,
            model=self._model,
            tokenizer=self._description.tokenizer,
            reason=reason,
            detail=detail,
        )
        if not node.tool_calls and (node.is_final or self._always_reads_answer):
            node = node.answered(self._run.reader.extract(node.trajectory))
        unit.node = node
        self._leave(unit, Stage.FINISHED)
        self._longest_done = max(self._longest_done, unit.tokens)
        self._note_sample(unit, {"node": node.to_json()})
        self._on_progress()

    def _leave(self, unit: Unit, stage: Stage) -> None:
        """The sample is no longer in flight here."""
        unit.stage = stage
        self._num_live -= 1
        self._run.sequences_changed(-1)

    def _usage_of(self, unit: Unit, *, is_estimated: bool = False) -> Usage:
        if not self._was_sent:
            return unit.paid
        pays_prompt = unit is self._units[0] and self._has_read_prompt
        own = sample_usage(
            self._description.cost,
            context_tokens=self._context_tokens,
            prompt_tokens=self._context_tokens if pays_prompt else 0,
            cached_tokens=self._cached_tokens if pays_prompt else 0,
            output_tokens=unit.tokens,
            longest_sibling=self._longest_done,
            recomputed_tokens=unit.recomputed_tokens + (self._recomputed_tokens if pays_prompt else 0),
            peak_kv_cells=unit.tree_kv_cells,
            is_estimated=is_estimated,
        )
        usage = unit.paid + own if self._attempt else own
        if pays_prompt and unit.repeats_prompt:
            usage = replace(usage, lost_tokens=usage.lost_tokens + self._context_tokens)
        assert unit.reservation is not None, "a running sample has money"
        reserved = unit.reservation.amount
        over = max(0, usage.output_tokens - reserved.output_tokens, usage.total_tokens - reserved.total_tokens)
        return replace(usage, overrun_tokens=over) if over else usage

    def _note_sample(self, unit: Unit, outcome: dict[str, object]) -> None:
        row = {"a": self._position, "i": unit.index, "usage": unit.usage.to_json(), **outcome}
        if unit.parent.id in self._run.root_tokens:
            row["prompt"] = self._run.root_tokens[unit.parent.id]
        self._run.recorder.add("sample", row)

    def _settle_failure(self, error: EngineFailed) -> None:
        """Each live sample gets another request, as long as that makes sense."""
        if self._is_cancelled:
            self._end_all()
            return
        may_retry = error.is_retryable and self._attempt + 1 < MAX_ATTEMPTS and self._run.interruption is None
        if not may_retry:
            self._fail(error)
            return
        _LOG.warning("engine failed; trying again", extra={"model": self._model, "attempt": self._attempt + 1})
        may_continue = Capability.CONTINUE in self._description.capabilities
        handed_on: list[Unit] = []
        for unit in self._live():
            if unit.tokens_before + unit.tokens >= unit.grant:
                if may_continue:  # all its text has come in; only the last event is missing
                    self._end(unit, FinishReason.LENGTH, None, is_estimated=not self._description.counts_exactly)
                else:
                    self._fail_one(unit, error)
                continue
            unit.paid = self._usage_of(unit, is_estimated=not self._description.counts_exactly)
            if not may_continue and unit.text:
                self._run.emit("delta", {"node": unit.node_id, "text": "", "tokens": 0, "starts_over": True})
            unit.start_over(may_continue=may_continue)
            handed_on.append(unit)
        self._num_live -= len(handed_on)
        self._run.sequences_changed(-len(handed_on))
        self._units = [unit for unit in self._units if unit.stage is not Stage.RUNNING]
        for unit in handed_on:
            self._spawn(self._another(unit))
        self._on_progress()

    def _another(self, unit: Unit) -> Request:
        return Request(
            self._run,
            self._position,
            self._action,
            engine=self._engine,
            model=self._model,
            units=[unit],
            sampling=self._sampling,
            spawn=self._spawn,
            on_progress=self._on_progress,
            always_reads_answer=self._always_reads_answer,
            attempt=self._attempt + 1,
        )

    def _fail(self, error: TtcError) -> None:
        """Live samples end without a result; what they have cost is kept in the books."""
        for unit in self._live():
            self._fail_one(unit, error)
        self._on_progress()

    def _fail_one(self, unit: Unit, error: TtcError) -> None:
        unit.usage = self._usage_of(unit, is_estimated=not self._description.counts_exactly)
        unit.error = error
        self._leave(unit, Stage.FAILED)
        self._note_sample(unit, {"failed": error.fields()})

    def _end_all(self) -> None:
        """Live samples end with what they have."""
        for unit in self._live():
            self._end(unit, FinishReason.CANCELLED, None, is_estimated=not self._description.counts_exactly)

    def _close_forced(self) -> None:
        """The engine did not answer a cancellation: live samples are charged what it may have run ahead."""
        for unit in self._live():
            left = unit.grant - unit.tokens_before
            if self._was_sent and self._description.counts_exactly:
                unit.tokens = min(left, unit.tokens + LOST_ALLOWANCE_TOKENS)
            self._end(unit, FinishReason.CANCELLED, None, is_estimated=True)
