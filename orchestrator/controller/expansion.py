"""An expansion in progress: admits samples as the budget allows, settles and delivers them in order.

Samples are admitted in submission order. A sample is admitted at its full length or, when nothing of this expansion
is in flight that could give money back, at the longest length that still fits; when not even a short one does, the
expansion ends there. Money of a finished sample is given back when its turn comes, so what is granted does not
depend on which sample happened to finish first.
"""

from __future__ import annotations

import asyncio
import bisect
from dataclasses import replace
from functools import cache, partial
from itertools import groupby

from orchestrator.actions import Expand
from orchestrator.budget import NOTHING, Amount
from orchestrator.controller.context import RunContext
from orchestrator.controller.purchase import amount_of, longest_grant, prompt_bound, sample_amount
from orchestrator.controller.request import Request
from orchestrator.controller.unit import Stage, Unit
from orchestrator.errors import BudgetExhausted, ContextOverflow, TtcError, from_fields
from orchestrator.job import StopReason
from orchestrator.journal import RecordedAction
from orchestrator.ledger import Shortfall
from orchestrator.sampling import GREEDY, Sampling, derived_seed
from orchestrator.tree import Node

SHORTEST_GRANT_TOKENS = 16
"""A sample is not worth starting with fewer tokens, unless it asks for fewer."""
_CANCEL_GRACE_S = 0.2


class Expansion:
    """One `Expand` being carried out.

    Args:
        run: The job.
        position: Number of the action.
        action: What was asked for.
        parallel: Most samples in flight; None for as many as the budget allows.
        in_order: Deliver in submission order, or as they finish.
        recorded: What the journal of an earlier life holds of it.
        is_conclusion: It states an answer: greedy, may draw on the answer reserve, its answer is read however it ends.
    """

    def __init__(
        self,
        run: RunContext,
        position: int,
        action: Expand,
        *,
        parallel: int | None = None,
        in_order: bool = True,
        recorded: RecordedAction | None = None,
        is_conclusion: bool = False,
    ) -> None:
        self._run = run
        self._position = position
        self._action = action if is_conclusion else _with_prefix(action, run)
        self._parallel = parallel
        self._in_order = in_order
        self._is_conclusion = is_conclusion
        self._model, self._engine = run.fleet.resolve(action.model)
        self._description = self._engine.describe()
        self._context_tokens: dict[str, int] = {}
        self._amount = cache(partial(sample_amount, self._description.cost))  # most samples are alike
        self._units = self._wanted_units()
        if run.committed is not None and run.answering is None:
            run.answering = next((unit.node_id for unit in self._units if unit.parent.id == run.committed), None)
        self._num_admitted = 0
        self._is_awaited = True
        self._num_settled = 0
        self._arrived: list[Unit] = []
        self._requests: set[Request] = set()
        self._wake = asyncio.Event()
        self._last_error: TtcError | None = None
        self.is_over = False
        self.shortfall: BudgetExhausted | None = None
        if recorded is not None:
            self._restore(recorded)
        run.on_interrupt.add(self._wake.set)

    @property
    def num_requested(self) -> int:
        """Samples asked for."""
        return sum(self._action.counts())

    def _wanted_units(self) -> list[Unit]:
        units: list[Unit] = []
        for node, count in zip(self._action.nodes, self._action.counts(), strict=True):
            for _ in range(count):
                index = len(units)
                seed = derived_seed(self._run.spec.seed, self._position, node.id, index)
                units.append(Unit(index=index, parent=node, seed=seed, node_id=f"{self._position}.{index}"))
        return units

    def _restore(self, recorded: RecordedAction) -> None:
        """Samples that the journal holds are taken from it; those that were in flight are bought again."""
        settled_prompts = {
            unit
            for request in recorded.requests.values()
            for unit in request.data["units"]
            if request.data["units"][0] in recorded.samples
        }
        for unit in self._units:
            data = recorded.samples.get(unit.index)
            if data is None:
                unit.repeats_prompt = unit.index in settled_prompts
                continue
            unit.was_paid = True
            if "prompt" in data:
                self._run.root_tokens[unit.parent.id] = data["prompt"]
            if failure := data.get("failed"):
                unit.stage = Stage.FAILED
                unit.error = from_fields(failure) if isinstance(failure, dict) else None
            else:
                unit.node = Node.from_json(data["node"], {unit.parent.id: unit.parent})
                unit.stage = Stage.FINISHED
            self._arrived.append(unit)

    def begin(self) -> None:
        """Starts the samples that can be paid for at their full length; others wait until somebody asks for them."""
        self._is_awaited = False
        self._admit()
        self._is_awaited = True

    async def next(self) -> tuple[Unit, Node] | None:
        """The next sample, settled and in the tree; None at the end.

        Raises:
            BudgetExhausted: Not even one sample fits.
            TtcError: No sample could be generated, or the job must stop.
        """
        while True:
            if self._run.interruption is not None:
                await self.cancel()
                self._run.check_interruption()
            self._admit()
            unit = self._ready()
            if unit is not None:
                node = await self._settle(unit)
                if node is not None:
                    return unit, node
            elif self._has_unsettled():
                self._wake.clear()
                await self._wake.wait()
            else:
                self._end()
                return None

    async def drain(self) -> list[tuple[Unit, Node]]:
        """All samples, in order."""
        delivered: list[tuple[Unit, Node]] = []
        try:
            while (item := await self.next()) is not None:
                delivered.append(item)
        except TtcError:
            await self.cancel()
            raise
        return delivered

    async def replay(self, index: int | None, answer_class: str | None) -> Node | None:
        """Delivers what the journal says was delivered; None is the end of the samples."""
        if index is None:
            self._end()
            return None
        unit = self._units[index]
        assert unit.node is not None, "the journal holds what it says was delivered"
        if unit.node.answer is not None and answer_class is not None:
            self._run.classes.restore(unit.node.answer, answer_class)
        if self._in_order:  # samples before it had failed
            for skipped in self._units[self._num_settled : index]:
                await self._settle(skipped)
        self._num_admitted = max(self._num_admitted, index + 1)
        return await self._settle(unit)

    async def cancel(self) -> None:
        """Ends what is in flight; samples that have text become nodes, and all are paid for."""
        self.is_over = True
        self._run.on_interrupt.discard(self._wake.set)
        for request in tuple(self._requests):
            request.cancel()
        if self._requests and not await self._quiet(_CANCEL_GRACE_S):
            for request in tuple(self._requests):
                request.force()
            await self._quiet(None)
        for unit in self._units:
            if unit.stage in {Stage.FINISHED, Stage.FAILED}:
                await self._settle(unit)

    async def _quiet(self, timeout_s: float | None) -> bool:
        """Waits until no request is live; False if that takes longer than ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._requests:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return False
        return True

    # -- admission ---------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        admitted: list[Unit] = []
        try:
            while not self.is_over and self.shortfall is None and self._num_admitted < len(self._units):
                unit = self._units[self._num_admitted]
                if self._parallel is not None and self._in_flight() >= self._parallel:
                    break
                if not unit.was_paid and not self._overflows(unit):
                    pays_prompt = not admitted or self._group_of(admitted[-1]) != self._group_of(unit)
                    if not self._reserve(unit, pays_prompt=pays_prompt):
                        break
                    unit.stage = Stage.RUNNING
                    admitted.append(unit)
                self._num_admitted += 1
        finally:
            for _, group in groupby(admitted, key=self._group_of):
                self._spawn(self._request(list(group)))

    def _overflows(self, unit: Unit) -> bool:
        """Whether the model has no room for what the sample is to continue; if so, it alone has failed."""
        if self._room_after(self._context_of(unit.parent)) >= 1:
            return False
        unit.stage = Stage.FAILED
        unit.error = ContextOverflow(
            model=self._model,
            prompt_tokens=self._context_of(unit.parent),
            context_length=self._description.context_length,
        )
        row = {"a": self._position, "i": unit.index, "usage": {}, "failed": unit.error.fields()}
        self._run.recorder.add("sample", row)
        return True

    def _group_of(self, unit: Unit) -> tuple[str, int]:
        """Samples of one group share a request. Those that a window lets in later come one by one, also on resume."""
        comes_alone = self._parallel is not None and unit.index >= self._parallel
        # Where each sample is a request to a server, it reads and pays for the prompt itself.
        comes_alone |= not self._description.shares_prompt
        comes_alone |= not self._description.counts_exactly and bool(
            self._action.stop or self._action.monitors or self._run.spec.form.stop
        )
        return unit.parent.id, unit.index if comes_alone else 0

    def _in_flight(self) -> int:
        """Samples that count against `parallel`: in order, all that have not been delivered."""
        if self._in_order:
            return self._num_admitted - self._num_settled
        return sum(unit.stage is Stage.RUNNING for unit in self._units[: self._num_admitted])

    def _reserve(self, unit: Unit, *, pays_prompt: bool) -> bool:
        """Sets money aside for a sample; False if it has to wait or nothing fits any more (see `shortfall`)."""
        context = self._context_of(unit.parent)
        wanted = self._room_after(context)
        ledger = self._run.ledger

        def amount(tokens: int) -> Amount:
            prompt_tokens = context if pays_prompt else 0
            return self._amount(context_tokens=context, prompt_tokens=prompt_tokens, output_tokens=tokens)

        def missing(tokens: int) -> Shortfall | None:
            return ledger.shortfall(amount(tokens), may_use_hold=self._is_conclusion)

        full_refusal = missing(wanted)
        if full_refusal is not None:
            if self._num_admitted > self._num_settled or not self._is_awaited:
                return False  # what is in flight may give money back
            shortest = min(wanted, SHORTEST_GRANT_TOKENS)
            if (refusal := missing(shortest)) is not None:
                self.shortfall = refusal.error()
                self._run.note_limit(self.shortfall)
                return False
            self._run.note_limit(full_refusal.error())
            # The longest grant that fits: all shorter ones do, so bisection finds it.
            wanted = bisect.bisect_left(range(wanted), True, lo=shortest, key=lambda n: missing(n) is not None) - 1
        unit.grant, unit.reservation = wanted, ledger.reserve(amount(wanted), may_use_hold=self._is_conclusion)
        return True

    def _context_of(self, parent: Node) -> int:
        if parent.id not in self._context_tokens:
            self._context_tokens[parent.id] = prompt_bound(
                self._engine, parent.prompt(forced=self._action.forced), tools=self._run.spec.form.tools
            )
        return self._context_tokens[parent.id]

    def _room_after(self, context: int) -> int:
        """Tokens a sample may take; less than 1 where the model's context is full."""
        wanted = self._action.max_tokens or self._run.spec.max_sample_tokens
        return longest_grant(self._description, context_tokens=context, wanted=wanted)

    def _request(self, units: list[Unit]) -> Request:
        return Request(
            self._run,
            self._position,
            self._action,
            engine=self._engine,
            model=self._model,
            units=units,
            sampling=self._sampling(),
            spawn=self._spawn,
            on_progress=self._wake.set,
            always_reads_answer=self._is_conclusion,
        )

    def _sampling(self) -> Sampling:
        if self._is_conclusion:
            return GREEDY
        return self._run.spec.sampling or self._action.sampling or Sampling()

    def _spawn(self, request: Request) -> None:
        assert self._run.tasks is not None, "expansions run inside a running job"
        self._requests.add(request)
        request.task = self._run.tasks.create_task(request.serve())
        request.task.add_done_callback(lambda _: self._request_done(request))

    def _request_done(self, request: Request) -> None:
        self._requests.discard(request)
        self._wake.set()

    # -- settlement --------------------------------------------------------------------------------------------

    def _has_unsettled(self) -> bool:
        return any(unit.stage is not Stage.SETTLED for unit in self._units[: self._num_admitted])

    def _ready(self) -> Unit | None:
        if self._in_order:
            head = self._num_settled
            is_ready = head < self._num_admitted and self._units[head].stage in {Stage.FINISHED, Stage.FAILED}
            return self._units[head] if is_ready else None
        for unit in self._units[: self._num_admitted]:
            if unit.stage in {Stage.FINISHED, Stage.FAILED}:
                return unit
        return None

    async def _settle(self, unit: Unit) -> Node | None:
        """Books the sample and puts it into the tree; None if it failed."""
        has_failed = unit.stage is Stage.FAILED
        unit.stage = Stage.SETTLED
        self._num_settled += 1
        if not unit.was_paid:
            self._book(unit)
        if has_failed:
            self._last_error = unit.error or self._last_error
            return None
        node = unit.node
        assert node is not None, "a finished sample has a node"
        if node.answer is not None:
            of_calls = node.answer if node.tool_calls else None  # canonical already
            node = node.answered(node.answer, of_calls or await self._run.classes.classify(node.answer))
            if self._run.tree.answers_query(node):
                self._run.ledger.hold(NOTHING)  # there is an answer; what was kept back for one can be spent
        if not node.is_cut:
            self._run.num_samples += 1
        self._run.tree.add(node)
        return node

    def abandon(self) -> None:
        """The job's tasks were cancelled, and its requests with them: books what they have cost. Writes nothing, so
        that the next life finds the journal as a crash leaves it.
        """
        self.is_over = True
        self._run.on_interrupt.discard(self._wake.set)
        for unit in self._units:
            if unit.reservation is not None and unit.reservation.is_open:
                unit.reservation.settle(amount_of(unit.usage))

    def _book(self, unit: Unit) -> None:
        if unit.reservation is None:
            return  # it could not even be admitted
        unit.reservation.settle(amount_of(unit.usage))
        self._run.add_usage(unit.usage)
        if unit.usage.overrun_tokens:
            self._run.interrupt(
                StopReason.OVERRUN,
                BudgetExhausted(
                    limit="max_output_tokens",
                    remaining=unit.reservation.amount.output_tokens,
                    requested=unit.usage.output_tokens,
                ),
            )

    def _end(self) -> None:
        """No more samples: says why, if there was none at all.

        Raises:
            TtcError: The budget had no room for any, or all failed.
        """
        self.is_over = True
        self._run.on_interrupt.discard(self._wake.set)
        has_nodes = any(unit.node is not None for unit in self._units)
        if self.shortfall is not None and not has_nodes:
            raise self.shortfall
        if self._last_error is not None and not has_nodes:
            raise self._last_error


def _with_prefix(action: Expand, run: RunContext) -> Expand:
    """Replies begin with what the caller wants them to begin with; those that go on from a text have begun."""
    prefix = run.spec.form.prefix
    begins = all(node.is_root and run.tree.answers_query(node) for node in action.nodes)
    is_there = action.forced.startswith(prefix)  # what a policy puts back of an earlier reply
    return action if not begins or is_there else replace(action, forced=prefix + action.forced)
