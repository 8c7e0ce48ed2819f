"""Carries out actions: one method for each, which journals what it did and returns the policy's outcome."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from orchestrator.actions import (
    Action,
    Answer,
    AskHuman,
    CallTool,
    Cancel,
    Commit,
    Compute,
    Conclude,
    Embed,
    Expand,
    Next,
    Propose,
    Release,
    Samples,
    Score,
    ScoreList,
    Snapshot,
    Start,
    Stream,
)
from orchestrator.budget import Amount
from orchestrator.controller.context import RunContext
from orchestrator.controller.expansion import Expansion
from orchestrator.controller.meter import JobMeter
from orchestrator.controller.purchase import amount_of, sample_usage
from orchestrator.engine import Embeds, Engine, FinishReason, Prompt, require
from orchestrator.errors import (
    BudgetExhausted,
    LeaseLost,
    PolicyFailed,
    ReplayDiverged,
    StoreFailed,
    TtcError,
    UnknownName,
    from_fields,
)
from orchestrator.isolation import KillablePool
from orchestrator.journal import Json, RecordedAction, encode_action, roots_of
from orchestrator.ledger import Reservation
from orchestrator.monitors import AnswerComplete
from orchestrator.sampling import GREEDY
from orchestrator.scoring_guard import GuardedVerifier
from orchestrator.tree import Node
from orchestrator.usage import Usage
from orchestrator.verifier import Candidate

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

TOOL_TIMEOUT_S = 60.0
COMPUTE_TIMEOUT_S = 120.0
_RELEASE_TIMEOUT_S = 1.0
_STOP_GRACE_S = 0.2
"""When the job must stop, work in progress has this long to end by itself, with exact counts."""


class WaitingForHuman(Exception):  # not an error: the job pauses
    """The job cannot go on before somebody answers."""

    def __init__(self, question: str) -> None:
        super().__init__(question)
        self.question = question


class Performer:
    """Carries out the actions of one job.

    Args:
        run: The job.
        verifier: Finds a verifier by name.
        pool: Gives the processes for `Compute`.
        is_offline: Only what the journal holds may be used (a replay without models).
    """

    def __init__(
        self,
        run: RunContext,
        *,
        verifier: Callable[[str], GuardedVerifier],
        pool: Callable[[], KillablePool],
        is_offline: bool = False,
    ) -> None:
        self._run = run
        self._verifier = verifier
        self._pool = pool
        self._is_offline = is_offline
        self._streams: dict[int, Expansion] = {}
        self._expansions: list[Expansion] = []
        self._spent = Usage()  # by the action under way, beside its samples
        self.proposal: Answer | None = None
        self._handlers: dict[type, Callable[..., Awaitable[Any]]] = {  # Any: outcomes differ by action
            Expand: self._expand,
            Start: self._start,
            Next: self._next,
            Cancel: self._cancel,
            Score: self._score,
            Embed: self._embed,
            Release: self._release,
            Propose: self._propose,
            Commit: self._commit,
            Conclude: self._conclude,
            Compute: self._compute,
            CallTool: self._call_tool,
            AskHuman: self._ask_human,
        }

    async def perform(self, position: int, action: Action) -> Any:  # Any: outcomes differ by action
        """Does what the policy asked for, or takes the outcome from the journal.

        Raises:
            TtcError: To be thrown into the policy.
            ReplayDiverged: The journal holds another action here.
            WaitingForHuman: Nobody has answered yet.
        """
        handler = self._handlers.get(type(action))
        if handler is None:
            raise PolicyFailed(f"the policy yielded {type(action).__name__}, which is not an action")
        encoded = _encoded(action)
        recorded = self._run.recording.check(position, encoded)
        if recorded is not None and recorded.done is not None:
            self._run.limited_by = self._run.limited_by or recorded.done.get("limited")
            if "error" in recorded.done:
                await self._settle_cut_short(position, action, recorded)
                raise from_fields(recorded.done["error"])
        elif self._is_offline and not (recorded is not None and isinstance(action, AskHuman)):
            reason = f"the journal ends before action {position} ({encoded['type']})"
            if self._run.recording.final is not None:
                raise ReplayDiverged(f"{reason}, though its job was finished: the policy changed", position=position)
            raise PolicyFailed(f"{reason}; it cannot be replayed")
        self._spent = Usage()
        try:
            self._add_roots(action)
            return await handler(position, action, encoded, recorded)
        except TtcError as error:
            self._note_done(position, encoded, {}, error=error)
            raise
        except WaitingForHuman:
            raise
        except Exception as error:
            _LOG.exception("an action could not be carried out", extra={"action": encoded["type"]})
            failure = PolicyFailed(f"action {position} ({encoded['type']}) could not be carried out: {error!r}")
            self._note_done(position, encoded, {}, error=failure)
            raise failure from error

    def _add_roots(self, action: Action) -> None:
        """Conversations the policy has opened itself join the tree; other nodes must be in it already.

        Raises:
            PolicyFailed: One is not.
        """
        for root in roots_of(action):
            if root["id"] not in self._run.tree:
                if not root.get("messages"):
                    raise PolicyFailed(f"node {root['id']!r} has neither a parent nor a conversation")
                self._run.tree.add(Node.from_json(root, {}))
        for node in _extended_by(action):
            if node.id not in self._run.tree:
                raise PolicyFailed(
                    f"{type(action).__name__} goes on from node {node.id!r}, which this job has not made"
                )

    async def _settle_cut_short(self, position: int, action: Action, recorded: RecordedAction) -> None:
        """Samples of an action that ended in an error were paid for all the same, and are in the tree."""
        expansion: Expansion | None = None
        if not recorded.samples and not isinstance(action, Next):
            return  # it was refused
        if isinstance(action, Expand):
            expansion = self._expansion(position, action, recorded=recorded)
        elif isinstance(action, Conclude):
            expand = self._conclusion(action)
            expansion = self._expansion(position, expand, recorded=recorded, is_conclusion=True)
        elif isinstance(action, Next):
            expansion = self._stream_of(action)
        if expansion is not None and not expansion.is_over:
            await expansion.cancel()

    async def aclose(self) -> None:
        """Ends streams that the policy has left open."""
        for stream in self._streams.values():
            if not stream.is_over:
                await stream.cancel()

    def abandon(self) -> None:
        """Books what expansions have cost that were cancelled together with the whole job."""
        for expansion in self._expansions:
            expansion.abandon()

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

    def _spend(self, usage: Usage) -> None:
        self._run.add_usage(usage)
        self._spent += usage

    # -- journal -----------------------------------------------------------------------------------------------

    def _begin(self, position: int, action: Action, encoded: Json, recorded: RecordedAction | None) -> None:
        self._run.check_interruption()
        if recorded is None:
            roots = roots_of(action)
            self._run.recorder.add("begin", {"a": position, "action": encoded, **({"roots": roots} if roots else {})})

    def _note_done(self, position: int, encoded: Json, outcome: Json, *, error: TtcError | None = None) -> None:
        data: Json = {"a": position, "action": encoded, "outcome": outcome, "t": round(self._run.elapsed_s, 3)}
        if error is not None:
            data["error"] = error.fields()
        if spent := self._spent.to_json():
            data["usage"] = spent
        if self._run.limited_by is not None:
            data["limited"] = self._run.limited_by
        self._run.recorder.add("done", data)

    async def _finish(self, position: int, encoded: Json, outcome: Json) -> None:
        self._note_done(position, encoded, outcome)
        await self._run.recorder.flush()

    def _snapshot_of(self, recorded: RecordedAction | None) -> Snapshot:
        if recorded is None or recorded.done is None:
            return self._run.snapshot()
        return Snapshot(**recorded.done["outcome"]["snapshot"])

    async def _note_paid_work(self, position: int, amount: Amount) -> None:
        """What is about to be spent on something other than samples; charged as lost if this process dies now."""
        data = {"a": position, "r": self._run.next_request_id(), "units": [], "reserved": amount.to_json()}
        await self._run.recorder.write("dispatch", data)

    # -- expansions --------------------------------------------------------------------------------------------

    def _expansion(self, position: int, action: Expand, **options: Any) -> Expansion:  # Any: as `Expansion` takes them
        expansion = Expansion(self._run, position, action, **options)
        self._expansions = [known for known in self._expansions if not known.is_over]
        self._expansions.append(expansion)
        return expansion

    async def _expand(self, position: int, action: Expand, encoded: Json, recorded: RecordedAction | None) -> Samples:
        _check_expand(action)
        expansion = self._expansion(position, action, recorded=recorded)
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            for index, answer_class in outcome["units"]:
                await expansion.replay(index, answer_class)
            nodes = tuple(self._run.tree[f"{position}.{index}"] for index, _ in outcome["units"])
            await expansion.cancel()
            return Samples(nodes, expansion.num_requested, self._snapshot_of(recorded))
        self._begin(position, action, encoded, recorded)
        items = await expansion.drain()
        snapshot = self._run.snapshot()
        units = [[unit.index, node.answer_class] for unit, node in items]
        outcome = {"units": units, "snapshot": _json_of(snapshot)}
        await self._finish(position, encoded, outcome)
        return Samples(tuple(node for _, node in items), expansion.num_requested, snapshot)

    async def _start(self, position: int, action: Start, encoded: Json, recorded: RecordedAction | None) -> Stream:
        _check_expand(action.expand)
        if action.parallel < 1:
            raise PolicyFailed(f"Start needs parallel of at least 1, not {action.parallel}")
        if recorded is None or recorded.done is None:
            self._run.check_interruption()
        self._streams[position] = self._expansion(
            position,
            action.expand,
            parallel=action.parallel,
            in_order=action.order == "submission",
            recorded=recorded,
        )
        if recorded is None or recorded.done is None:
            self._begin(position, action, encoded, recorded)
            self._note_done(position, encoded, {})
            self._streams[position].begin()
        return Stream(position)

    async def _next(self, position: int, action: Next, encoded: Json, recorded: RecordedAction | None) -> Node | None:
        expansion = self._stream_of(action)
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            return await expansion.replay(outcome["unit"], outcome.get("class"))
        item = await expansion.next()
        if item is None:
            await self._finish(position, encoded, {"unit": None})
            return None
        unit, node = item
        await self._finish(position, encoded, {"unit": unit.index, "class": node.answer_class})
        return node

    async def _cancel(self, position: int, action: Cancel, encoded: Json, recorded: RecordedAction | None) -> None:
        await self._stream_of(action).cancel()
        if recorded is None:
            await self._finish(position, encoded, {})

    def _stream_of(self, action: Next | Cancel) -> Expansion:
        expansion = self._streams.get(action.stream.id)
        if expansion is None:
            raise PolicyFailed(f"the policy uses stream {action.stream.id}, which it has not started")
        return expansion

    async def _conclude(
        self, position: int, action: Conclude, encoded: Json, recorded: RecordedAction | None
    ) -> Node | None:
        expand = self._conclusion(action)
        expansion = self._expansion(position, expand, recorded=recorded, is_conclusion=True)
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            node = await expansion.replay(outcome["unit"], outcome.get("class"))
            await expansion.cancel()
            return node
        self._begin(position, action, encoded, recorded)
        items = await expansion.drain()
        unit, node = items[0]
        await self._finish(position, encoded, {"unit": unit.index, "class": node.answer_class})
        return node

    def _conclusion(self, action: Conclude) -> Expand:
        return Expand(
            [action.node],
            model=action.model,
            max_tokens=max(1, self._run.spec.budget.reserve_tokens),
            sampling=GREEDY,
            monitors=(AnswerComplete(),),
            forced=self._run.reader.cue,
        )

    # -- scoring -----------------------------------------------------------------------------------------------

    async def _score(self, position: int, action: Score, encoded: Json, recorded: RecordedAction | None) -> ScoreList:
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            scores, problems = tuple(outcome["scores"]), tuple(outcome["problems"])
            snapshot = self._snapshot_of(recorded)
        else:
            self._begin(position, action, encoded, recorded)
            verifier = self._verifier(action.verifier)
            meter = JobMeter(self._run, position)
            candidates = [self._candidate(node) for node in action.nodes]
            try:
                report = await self._until_interrupted(
                    verifier.report(candidates, meter, deadline_s=self._run.remaining_s)
                )
            finally:
                self._spent += meter.usage
                self._spend(Usage(verifier_calls=len(action.nodes)))
            scores, problems = report.scores, tuple(str(problem) for problem in report.problems)
            snapshot = self._run.snapshot()
            outcome = {"scores": list(scores), "problems": list(problems), "snapshot": _json_of(snapshot)}
            await self._finish(position, encoded, outcome)
        for node, score in zip(action.nodes, scores, strict=True):
            if score is not None:
                self._run.tree.record_score(node, action.verifier, score)
        return ScoreList(scores, problems, snapshot)

    def _candidate(self, node: Node) -> Candidate:
        return Candidate(
            problem=self._run.spec.problem,
            text=node.trajectory,
            answer=node.answer,
            answer_class=node.answer_class,
            is_final=node.is_final,
            prompt=node.prompt(),
        )

    async def _embed(
        self, position: int, action: Embed, encoded: Json, recorded: RecordedAction | None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:  # Any: the shape
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            raw = base64.b64decode(outcome["vectors"])
            return np.frombuffer(raw, dtype="<f4").reshape(len(action.nodes), -1)
        self._begin(position, action, encoded, recorded)
        _, engine = self._run.fleet.resolve(action.model)
        embedder = require(engine, Embeds, fleet=self._run.fleet)  # type: ignore[type-abstract]  # a protocol is the point
        cost = engine.describe().cost
        bound = sum(len(node.text.encode()) + 8 for node in action.nodes)
        usage = sample_usage(cost, context_tokens=bound, prompt_tokens=bound, cached_tokens=0, output_tokens=0)
        reservation = self._reserved(amount_of(usage))
        try:
            await self._note_paid_work(position, reservation.amount)
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
            self._spend(usage)
        vectors = np.ascontiguousarray(embedded.vectors, dtype="<f4")
        outcome = {"vectors": base64.b64encode(vectors.tobytes()).decode()}
        await self._finish(position, encoded, outcome)
        return vectors

    # -- free actions ------------------------------------------------------------------------------------------

    async def _release(self, position: int, action: Release, encoded: Json, recorded: RecordedAction | None) -> None:
        if recorded is None:
            keep = [node.prompt() for node in action.all_but]
            for engine in self._run.fleet:
                await let_go(engine, self._run.job_id, keep=keep)
            self._note_done(position, encoded, {})

    async def _propose(self, position: int, action: Propose, encoded: Json, recorded: RecordedAction | None) -> None:
        check_answer(action.answer)
        if action.answer.text is not None:
            self.proposal = action.answer
        if recorded is None:
            await self._finish(position, encoded, {})

    async def _commit(self, position: int, action: Commit, encoded: Json, recorded: RecordedAction | None) -> None:
        self._run.committed, self._run.answering = action.node.id, None
        if recorded is None:
            if not action.node.is_root:
                self._run.emit("answer_delta", {"text": action.node.trajectory})
            self._note_done(position, encoded, {})

    # -- other work --------------------------------------------------------------------------------------------

    async def _compute(
        self, position: int, action: Compute, encoded: Json, recorded: RecordedAction | None
    ) -> Any:  # Any: a JSON value
        if recorded is not None and recorded.done is not None:
            return recorded.done["outcome"]["value"]
        self._begin(position, action, encoded, recorded)
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
        await self._finish(position, encoded, {"value": value})
        return value

    async def _call_tool(self, position: int, action: CallTool, encoded: Json, recorded: RecordedAction | None) -> Node:
        if recorded is not None and recorded.done is not None:
            node = Node.from_json(recorded.done["outcome"]["node"], {action.node.id: action.node})
            self._run.tree.add(node)
            return node
        tool = self._run.tools.get(action.name)
        if tool is None:
            raise UnknownName(kind="tool", name=action.name, known=self._run.tools)
        self._begin(position, action, encoded, recorded)
        reservation = self._reserved(Amount(tool_calls=1))
        try:
            await self._note_paid_work(position, reservation.amount)
        except BaseException:
            reservation.refund()
            raise
        try:
            text = await self._until_interrupted(_called(tool, dict(action.arguments)))
        finally:
            reservation.settle(Amount(tool_calls=1))
            self._spend(Usage(tool_calls=1))
        node = Node(
            id=f"{position}.0", parent=action.node, forced=text, text=text, model=action.name, finish=FinishReason.STOP
        )
        self._run.tree.add(node)
        await self._finish(position, encoded, {"node": node.to_json()})
        return node

    async def _ask_human(self, position: int, action: AskHuman, encoded: Json, recorded: RecordedAction | None) -> str:
        if recorded is not None and recorded.done is not None:
            return str(recorded.done["outcome"]["reply"])
        if not self._is_offline:
            self._begin(position, action, encoded, recorded)
            await self._run.recorder.flush()
        raise WaitingForHuman(action.question)


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


async def let_go(engine: Engine, tree_id: str, *, keep: Sequence[Prompt] = ()) -> None:
    """Releases a tree's prefixes; an engine that cannot do so now does not hold the job up."""
    try:
        async with asyncio.timeout(_RELEASE_TIMEOUT_S):
            await engine.release(tree_id, keep=keep)
    except Exception:  # noqa: BLE001
        _LOG.warning("prefixes could not be released", exc_info=True, extra={"model": engine.describe().name})


def check_answer(answer: Answer) -> Answer:
    """The answer itself.

    Raises:
        PolicyFailed: It is not made of what `Answer` says.
    """
    if not isinstance(answer, Answer):
        raise PolicyFailed(f"{answer!r:.100} is not an Answer")
    if answer.text is not None and not isinstance(answer.text, str):
        raise PolicyFailed(f"an answer's text must be a string, not {type(answer.text).__name__}")
    if answer.node is not None and not isinstance(answer.node, Node):
        raise PolicyFailed(f"an answer's node must be a Node, not {type(answer.node).__name__}")
    if answer.confidence is not None and not (_is_number(answer.confidence) and 0 <= answer.confidence <= 1):
        raise PolicyFailed(f"an answer's confidence must be from 0 to 1, not {answer.confidence!r}")
    for pair in answer.alternatives:
        is_pair = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and _is_number(pair[1])
        if not is_pair:
            raise PolicyFailed(f"an answer's alternatives must be pairs of a text and a number, not {pair!r:.100}")
    return answer


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _encoded(action: Action) -> Json:
    try:
        encoded = encode_action(action)
        json.dumps(encoded, allow_nan=False)
    except Exception as error:
        raise PolicyFailed(
            f"the policy yielded a {type(action).__name__} that is not made of what it should be: {error!r}"
        ) from error
    return encoded


def _extended_by(action: Action) -> Sequence[Node]:
    """The nodes that the action adds children to."""
    match action:
        case Expand(nodes) | Start(Expand(nodes)):
            return nodes
        case Conclude(node) | CallTool(node):
            return (node,)
    return ()


def _check_expand(action: Expand) -> None:
    counts = action.counts()
    if len(counts) != len(action.nodes):
        raise PolicyFailed(f"Expand has {len(action.nodes)} nodes and {len(counts)} sample counts")
    if any(count < 0 for count in counts):
        raise PolicyFailed(f"Expand asks for a negative number of samples: {counts}")
    if not all(isinstance(stop, str) and stop for stop in action.stop):
        raise PolicyFailed(f"Expand needs stop strings that are not empty, not {action.stop!r}")
    if action.max_tokens is not None and action.max_tokens < 1:
        raise PolicyFailed(f"Expand needs max_tokens of at least 1, not {action.max_tokens}")


def _json_of(snapshot: Snapshot) -> Json:
    return {
        "remaining": dict(snapshot.remaining),
        "elapsed_s": snapshot.elapsed_s,
        "remaining_s": snapshot.remaining_s,
    }
