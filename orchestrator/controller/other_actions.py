"""Actions that are work but buy no samples: `Score`, `Embed`, `Compute`, `CallTool` and `AskHuman`.

Each handler takes the action's number, the action, its encoding and what the journal holds of it, and returns the
policy's outcome.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.actions import AskHuman, CallTool, Compute, Embed, Score, ScoreList
from orchestrator.budget import Amount
from orchestrator.controller.action_journal import ActionJournal, snapshot_to_json
from orchestrator.controller.context import RunContext
from orchestrator.controller.meter import JobMeter
from orchestrator.controller.purchase import amount_of, sample_usage
from orchestrator.engine import Embeds, FinishReason, require
from orchestrator.errors import BudgetExhausted, LeaseLost, PolicyFailed, StoreFailed, UnknownName
from orchestrator.isolation import KillablePool
from orchestrator.journal import Json, RecordedAction
from orchestrator.ledger import Reservation
from orchestrator.scoring_guard import GuardedVerifier
from orchestrator.tree import Node
from orchestrator.usage import Usage
from orchestrator.verifier import Candidate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_T = TypeVar("_T")

TOOL_TIMEOUT_S = 60.0
COMPUTE_TIMEOUT_S = 120.0
_STOP_GRACE_S = 0.2
"""When the job must stop, work in progress has this long to end by itself, with exact counts."""


class WaitingForHuman(Exception):  # not an error: the job pauses
    """The job cannot go on before somebody answers."""

    def __init__(self, question: str) -> None:
        super().__init__(question)
        self.question = question


class OtherActions:
    """Scores, embeddings, computations, tools and people of one job.

    Args:
        run: The job.
        journal: Where its actions are written down.
        verifier: Finds a verifier by name.
        pool: Gives the processes for `Compute`.
        is_offline: Only what the journal holds may be used (a replay without models).
    """

    def __init__(
        self,
        run: RunContext,
        journal: ActionJournal,
        *,
        verifier: Callable[[str], GuardedVerifier],
        pool: Callable[[], KillablePool],
        is_offline: bool,
    ) -> None:
        self._run = run
        self._journal = journal
        self._verifier = verifier
        self._pool = pool
        self._is_offline = is_offline

    async def score(self, position: int, action: Score, encoded: Json, recorded: RecordedAction | None) -> ScoreList:
        """Has a verifier judge nodes; the scores join the tree."""
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            scores, problems = tuple(outcome["scores"]), tuple(outcome["problems"])
            snapshot = self._journal.snapshot_of(recorded)
        else:
            self._journal.begin(position, action, encoded, recorded)
            verifier = self._verifier(action.verifier)
            meter = JobMeter(self._run, position)
            candidates = [self._candidate(node) for node in action.nodes]
            try:
                report = await self._until_interrupted(
                    verifier.report(candidates, meter, deadline_s=self._run.remaining_s)
                )
            finally:
                self._journal.count(meter.usage)
                self._journal.spend(Usage(verifier_calls=len(action.nodes)))
            scores, problems = report.scores, tuple(str(problem) for problem in report.problems)
            snapshot = self._run.snapshot()
            outcome = {"scores": list(scores), "problems": list(problems), "snapshot": snapshot_to_json(snapshot)}
            await self._journal.finish(position, encoded, outcome)
        for node, score in zip(action.nodes, scores, strict=True):
            if score is not None:
                self._run.tree.record_score(node, action.verifier, score)
        return ScoreList(scores, problems, snapshot)

    def _candidate(self, node: Node) -> Candidate:
        prompt = node.prompt()
        if node.root.answers_query:  # however it was asked for, it is judged as a reply to the query
            prompt = replace(prompt, messages=self._run.tree.root.messages)
        return Candidate(
            problem=self._run.spec.problem,
            text=node.trajectory,
            answer=node.answer,
            answer_class=node.answer_class,
            is_final=node.is_final,
            prompt=prompt,
        )

    async def embed(
        self, position: int, action: Embed, encoded: Json, recorded: RecordedAction | None
    ) -> npt.NDArray[np.float32]:
        """Has a model embed the texts of nodes; one row of float32 each."""
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            return _decoded(outcome["vectors"], num_rows=len(action.nodes))
        self._journal.begin(position, action, encoded, recorded)
        _, engine = self._run.fleet.resolve(action.model)
        embedder = require(engine, Embeds, fleet=self._run.fleet)  # type: ignore[type-abstract]  # a protocol is the point
        cost = engine.describe().cost
        bound = sum(len(node.text.encode()) + 8 for node in action.nodes)
        usage = sample_usage(cost, context_tokens=bound, prompt_tokens=bound, cached_tokens=0, output_tokens=0)
        reservation = self._reserved(amount_of(usage))
        try:
            await self._journal.note_paid_work(position, reservation.amount)
            embedded = await self._until_interrupted(embedder.embed([node.text for node in action.nodes]))
            tokens = embedded.prompt_tokens
            usage = sample_usage(cost, context_tokens=tokens, prompt_tokens=tokens, cached_tokens=0, output_tokens=0)
        except (StoreFailed, LeaseLost):
            usage = Usage()  # it was not sent
            raise
        except BaseException:
            usage = replace(usage, is_estimated=True)
            raise
        finally:
            reservation.settle(amount_of(usage))
            self._journal.spend(usage)
        vectors = _as_written(embedded.vectors)
        outcome = {"vectors": base64.b64encode(vectors.tobytes()).decode()}
        await self._journal.finish(position, encoded, outcome)
        return vectors

    async def compute(
        self, position: int, action: Compute, encoded: Json, recorded: RecordedAction | None
    ) -> Any:  # Any: a JSON value
        """Runs a function in a process of its own."""
        if recorded is not None and recorded.done is not None:
            return recorded.done["outcome"]["value"]
        self._journal.begin(position, action, encoded, recorded)
        try:
            value = await self._until_interrupted(
                self._pool().run(action.fn, *action.args, timeout_s=COMPUTE_TIMEOUT_S)
            )
            value = json.loads(json.dumps(value, allow_nan=False))  # the same as a replay will have
        except TimeoutError:
            raise PolicyFailed(f"Compute({encoded['fn']}) took longer than {COMPUTE_TIMEOUT_S:g} s") from None
        except (BudgetExhausted, StoreFailed, LeaseLost):
            raise
        except Exception as error:
            raise PolicyFailed(f"Compute({encoded['fn']}) failed: {error}") from error
        await self._journal.finish(position, encoded, {"value": value})
        return value

    async def call_tool(self, position: int, action: CallTool, encoded: Json, recorded: RecordedAction | None) -> Node:
        """Calls a tool; what it says becomes a node, which models read."""
        if recorded is not None and recorded.done is not None:
            node = Node.from_json(recorded.done["outcome"]["node"], {action.node.id: action.node})
            self._run.tree.add(node)
            return node
        tool = self._run.tools.get(action.name)
        if tool is None:
            raise UnknownName(kind="tool", name=action.name, known=self._run.tools)
        self._journal.begin(position, action, encoded, recorded)
        reservation = self._reserved(Amount(tool_calls=1))
        try:
            await self._journal.note_paid_work(position, reservation.amount)
        except BaseException:
            reservation.refund()
            raise
        try:
            text = await self._until_interrupted(_called(tool, dict(action.arguments)))
        finally:
            reservation.settle(Amount(tool_calls=1))
            self._journal.spend(Usage(tool_calls=1))
        node = Node(
            id=f"{position}.0", parent=action.node, forced=text, text=text, model=action.name, finish=FinishReason.STOP
        )
        self._run.tree.add(node)
        await self._journal.finish(position, encoded, {"node": node.to_json()})
        return node

    async def ask_human(self, position: int, action: AskHuman, encoded: Json, recorded: RecordedAction | None) -> str:
        """Waits for a person, or takes their reply from the journal."""
        if recorded is not None and recorded.done is not None:
            return str(recorded.done["outcome"]["reply"])
        if not self._is_offline:
            self._journal.begin(position, action, encoded, recorded)
            await self._run.recorder.flush()
        raise WaitingForHuman(action.question)

    async def _until_interrupted(self, work: Awaitable[_T]) -> _T:
        """What ``work`` gives, unless the job must stop before that.

        Raises:
            TtcError: What the policy is to be told then.
        """
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)

        def stop() -> None:
            scope.reschedule(loop.time() + _STOP_GRACE_S)

        try:
            async with scope:
                self._run.on_interrupt.add(stop)
                try:
                    return await work
                finally:
                    self._run.on_interrupt.discard(stop)
        except TimeoutError:
            if scope.expired():
                self._run.check_interruption()
            raise

    def _reserved(self, amount: Amount) -> Reservation:
        try:
            return self._run.ledger.reserve(amount)
        except BudgetExhausted as error:
            self._run.note_limit(error)
            raise


async def _called(tool: Callable[..., Any], arguments: dict[str, Any]) -> str:  # Any: JSON values
    """What the tool says; its failure is a result too, which the model should see."""
    try:
        async with asyncio.timeout(TOOL_TIMEOUT_S):
            if inspect.iscoroutinefunction(tool):
                value = await tool(**arguments)
            else:
                value = await asyncio.to_thread(tool, **arguments)
                if inspect.isawaitable(value):
                    value = await value
        return value if isinstance(value, str) else json.dumps(value, default=str)
    except TimeoutError:
        return f"error: no result within {TOOL_TIMEOUT_S:g} s"
    except Exception as error:  # noqa: BLE001
        return f"error: {error!r}"


def _as_written(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import numpy as np  # here, as it takes a tenth of a second

    return np.ascontiguousarray(vectors, dtype="<f4")


def _decoded(vectors: str, *, num_rows: int) -> npt.NDArray[np.float32]:
    import numpy as np  # as above

    return np.frombuffer(base64.b64decode(vectors), dtype="<f4").reshape(num_rows, -1)
