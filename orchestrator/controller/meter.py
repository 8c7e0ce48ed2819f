"""Buys model work for a verifier: reserves, journals, generates, settles; a refusal is a None, not an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from orchestrator.budget import NOTHING, Amount
from orchestrator.controller.context import RunContext
from orchestrator.controller.purchase import amount_of, prompt_bound, sample_amount, sample_usage
from orchestrator.engine import (
    Delta,
    Engine,
    Finished,
    GenerateRequest,
    Prefilled,
    Prompt,
    RewardsSteps,
    SampleSpec,
    ScoresTokens,
    Span,
    StepRewards,
    Tokenizes,
    TokenScores,
    check_capabilities,
    require,
)
from orchestrator.errors import BudgetExhausted, CallerError, ContextOverflow, EngineFailed
from orchestrator.job import StopReason
from orchestrator.journal import LOST_ALLOWANCE_TOKENS
from orchestrator.ledger import Reservation
from orchestrator.sampling import GREEDY, Sampling, derived_seed
from orchestrator.usage import Usage
from orchestrator.verifier import Completion

_LOG = logging.getLogger(__name__)
_Read = TypeVar("_Read", TokenScores, StepRewards)


class JobMeter:
    """The `orchestrator.verifier.Meter` of one `Score` action.

    Attributes:
        usage: What the verifier has spent.
    """

    def __init__(self, run: RunContext, position: int) -> None:
        self._run = run
        self._position = position
        self._num_bought = 0
        self.usage = Usage()

    @property
    def memory(self) -> dict[str, Any]:  # Any: whatever a verifier keeps
        """The job's; see `orchestrator.verifier.Remembers`."""
        return self._run.verifier_memory

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
        """One sample of each prompt; see `orchestrator.verifier.Meter`."""
        name, engine = self._run.fleet.resolve(model)
        requests: list[GenerateRequest] = []
        for prompt in prompts:
            number = self._num_bought + len(requests)
            drawn = derived_seed(self._run.spec.seed, "verifier", self._position, seed, number)
            requests.append(
                GenerateRequest(
                    request_id=self._run.next_request_id(),
                    prompt=prompt,
                    samples=(SampleSpec(drawn, max_tokens),),
                    sampling=sampling,
                    stop=tuple(stop),
                    num_logprobs=num_logprobs,
                    tree_id=self._run.job_id,
                    cache_salt=self._run.spec.cache_salt,
                    deadline_s=self._run.remaining_s,
                )
            )
        for request in requests:
            check_capabilities(request, engine.describe())
        self._num_bought += len(requests)
        reservations = await self._reserve(engine, [(request.prompt, max_tokens) for request in requests])
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self._one(name, engine, request, reservation))
                    for request, reservation in zip(requests, reservations, strict=True)
                    if reservation is not None
                ]
        finally:
            _refund(reservations)  # of those that were cancelled before they began
        results = iter(running)
        return [None if reservation is None else next(results).result() for reservation in reservations]

    async def score_tokens(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], *, model: str = "verifier"
    ) -> Sequence[TokenScores | None]:
        """Log probabilities of given texts; see `orchestrator.verifier.Meter`."""
        name, engine = self._run.fleet.resolve(model)
        scorer = require(engine, ScoresTokens, fleet=self._run.fleet)  # type: ignore[type-abstract]  # a protocol is the point
        tokenizer = require(engine, Tokenizes, fleet=self._run.fleet)  # type: ignore[type-abstract]
        ids = [tokenizer.tokenize(text) for text in continuations]
        reservations = await self._reserve(
            engine, [(prompt, 0) for prompt in prompts], extra_prompt=[len(tokens) for tokens in ids]
        )
        try:
            return [
                None
                if reservation is None
                else await self._read(
                    name,
                    partial(scorer.score_tokens, prompt, tokens, tree_id=self._run.job_id),
                    reservation,
                    bound=prompt_bound(engine, prompt) + len(tokens),
                )
                for prompt, tokens, reservation in zip(prompts, ids, reservations, strict=True)
            ]
        finally:
            _refund(reservations)

    async def reward_steps(
        self,
        prompts: Sequence[Prompt],
        steps: Sequence[Sequence[str]],
        *,
        num_known: Sequence[int] | None = None,
        model: str = "verifier",
    ) -> Sequence[StepRewards | None]:
        """Rewards of steps; see `orchestrator.verifier.Meter`."""
        name, engine = self._run.fleet.resolve(model)
        judge = require(engine, RewardsSteps, fleet=self._run.fleet)  # type: ignore[type-abstract]  # a protocol is the point
        known = num_known or [0] * len(prompts)
        whole = [
            Prompt(prompt.messages, (*prompt.continuation, *map(Span, own)))
            for prompt, own in zip(prompts, steps, strict=True)
        ]
        marks = [len(own) for own in steps]  # a tag after each step, at most
        reservations = await self._reserve(engine, [(prompt, 0) for prompt in whole], extra_prompt=marks)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    None
                    if reservation is None
                    else tasks.create_task(
                        self._read(
                            name,
                            partial(
                                judge.reward_steps,
                                prompts[index],
                                steps[index],
                                num_known=known[index],
                                tree_id=self._run.job_id,
                            ),
                            reservation,
                            bound=prompt_bound(engine, whole[index]) + marks[index],
                        )
                    )
                    for index, reservation in enumerate(reservations)
                ]
        except* CallerError as group:
            raise group.exceptions[0] from None
        finally:
            _refund(reservations)
        return [None if task is None else task.result() for task in running]

    async def _read(
        self, name: str, read: Callable[[], Awaitable[_Read]], reservation: Reservation, *, bound: int
    ) -> _Read | None:
        """What an engine reads, paid for; None if it failed. ``bound`` is charged if the reading was cut off."""
        engine = self._run.fleet.models[name]
        result: _Read | None = None
        try:
            result = await read()
        except asyncio.CancelledError:
            self._settle(
                name, engine, reservation, prompt_tokens=bound, cached_tokens=0, output_tokens=0, is_estimated=True
            )
            raise
        except CallerError as error:
            if not isinstance(error, ContextOverflow):
                raise
            _LOG.info("a text is too long for the verifier model", extra={"model": name})
        except Exception as error:  # noqa: BLE001  # an engine may raise anything; the score is missing then
            was_expected = isinstance(error, EngineFailed)
            _LOG.warning("verifier model failed", exc_info=not was_expected, extra={"model": name})
        self._settle(
            name,
            engine,
            reservation,
            prompt_tokens=result.prompt_tokens if result else 0,
            cached_tokens=result.cached_tokens if result else 0,
            output_tokens=0,
            recomputed_tokens=result.recomputed_tokens if result else 0,
        )
        return result

    async def _reserve(
        self, engine: Engine, wanted: Sequence[tuple[Prompt, int]], *, extra_prompt: Sequence[int] = ()
    ) -> list[Reservation | None]:
        """Money for each piece of work, in order, and one journal row for all; None where it does not fit."""
        cost = engine.describe().cost
        reservations: list[Reservation | None] = []
        total = NOTHING
        for index, (prompt, max_tokens) in enumerate(wanted):
            context = prompt_bound(engine, prompt) + (extra_prompt[index] if extra_prompt else 0)
            amount = sample_amount(cost, context_tokens=context, prompt_tokens=context, output_tokens=max_tokens)
            try:
                self._run.check_interruption()
                reservations.append(self._run.ledger.reserve(amount))
                total += amount
            except BudgetExhausted as error:
                self._run.note_limit(error)
                reservations.append(None)
        if total != NOTHING:
            try:
                await self._note_dispatch(total)
            except BaseException:
                _refund(reservations)
                raise
        return reservations

    async def _note_dispatch(self, total: Amount) -> None:
        data = {"a": self._position, "r": self._run.next_request_id(), "units": [], "reserved": total.to_json()}
        await self._run.recorder.write("dispatch", data)

    async def _one(
        self, name: str, engine: Engine, request: GenerateRequest, reservation: Reservation
    ) -> Completion | None:
        def stop_now() -> None:
            engine.cancel(request.request_id)

        text: list[str] = []
        first_token: tuple[tuple[str, float], ...] = ()
        prefilled: Prefilled | None = None
        finished: Finished | None = None
        counted, was_dropped = 0, False
        self._run.on_interrupt.add(stop_now)
        try:
            async with aclosing(engine.generate(request)) as events:  # type: ignore[type-var]  # async generators
                async for event in events:
                    if isinstance(event, Prefilled):
                        prefilled = event
                    elif isinstance(event, Finished):
                        finished = event
                    elif isinstance(event, Delta):
                        if not counted:
                            first_token = _first_token(engine, event)
                        counted += event.num_tokens
                        text.append(event.text)
        except asyncio.CancelledError:
            was_dropped = True  # the verifier's time is up; the engine may have run ahead of what was counted
            raise
        except Exception as error:  # noqa: BLE001  # an engine may raise anything; the score is missing then
            was_expected = isinstance(error, EngineFailed)
            _LOG.warning("verifier model failed", exc_info=not was_expected, extra={"model": name})
        finally:
            self._run.on_interrupt.discard(stop_now)
            output = max(counted, finished.output_tokens if finished else 0)
            bound = prompt_bound(engine, request.prompt) if was_dropped else 0
            self._settle(
                name,
                engine,
                reservation,
                prompt_tokens=prefilled.prompt_tokens if prefilled else bound,
                cached_tokens=prefilled.cached_tokens if prefilled else 0,
                output_tokens=min(request.samples[0].max_tokens, output + LOST_ALLOWANCE_TOKENS)
                if was_dropped
                else output,
                recomputed_tokens=(prefilled.recomputed_tokens if prefilled else 0)
                + (finished.recomputed_tokens if finished else 0),
                peak_kv_cells=finished.tree_kv_cells if finished else 0,
                is_estimated=was_dropped,
            )
        if finished is None:
            return None
        return Completion(
            text="".join(text), finish=finished.reason, output_tokens=finished.output_tokens, first_token=first_token
        )

    def _settle(
        self,
        name: str,
        engine: Engine,
        reservation: Reservation,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        recomputed_tokens: int = 0,
        peak_kv_cells: int = 0,
        is_estimated: bool = False,
    ) -> None:
        usage = sample_usage(
            engine.describe().cost,
            context_tokens=prompt_tokens,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            is_estimated=is_estimated,
        )
        usage = replace(
            usage,
            verifier_tokens={name: usage.total_tokens},
            recomputed_tokens=recomputed_tokens,
            peak_kv_cells=peak_kv_cells,
        )
        excess = reservation.settle(amount_of(usage))
        if over := max(excess.output_tokens, excess.total_tokens):
            usage = replace(usage, overrun_tokens=over)
            error = BudgetExhausted(
                limit="max_output_tokens", remaining=reservation.amount.output_tokens, requested=usage.output_tokens
            )
            self._run.interrupt(StopReason.OVERRUN, error)
        self._run.add_usage(usage)
        self.usage += usage


def _refund(reservations: Sequence[Reservation | None]) -> None:
    """Gives back what was set aside for work that was never sent."""
    for reservation in reservations:
        if reservation is not None and reservation.is_open:
            reservation.refund()


def _first_token(engine: Engine, delta: Delta) -> tuple[tuple[str, float], ...]:
    if not delta.alternatives:
        return ()
    likeliest = delta.alternatives[0]
    texts = [
        token if isinstance(token, str) else engine.detokenize([token]) if isinstance(engine, Tokenizes) else ""
        for token in likeliest.tokens
    ]
    return tuple(zip(texts, likeliest.logprobs, strict=True))
