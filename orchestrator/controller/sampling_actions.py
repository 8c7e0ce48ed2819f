"""Actions that buy samples: `Expand`, `Start` with its `Next` and `Cancel`, and `Conclude`.

Each handler takes the action's number, the action, its encoding and what the journal holds of it, and returns the
policy's outcome. Admission, money and delivery of samples are those of `orchestrator.controller.expansion`.
"""

from __future__ import annotations

from typing import Any

from orchestrator.actions import Action, Cancel, Conclude, Expand, Next, Samples, Start, Stream
from orchestrator.controller.action_journal import ActionJournal, snapshot_to_json
from orchestrator.controller.checks import check_expand
from orchestrator.controller.context import RunContext
from orchestrator.controller.expansion import Expansion
from orchestrator.errors import PolicyFailed
from orchestrator.journal import Json, RecordedAction
from orchestrator.monitors import AnswerComplete
from orchestrator.sampling import GREEDY
from orchestrator.tree import Node


class SamplingActions:
    """The expansions and streams of one job.

    Args:
        run: The job.
        journal: Where its actions are written down.
    """

    def __init__(self, run: RunContext, journal: ActionJournal) -> None:
        self._run = run
        self._journal = journal
        self._streams: dict[int, Expansion] = {}
        self._expansions: list[Expansion] = []

    async def expand(self, position: int, action: Expand, encoded: Json, recorded: RecordedAction | None) -> Samples:
        """Buys all samples before the policy goes on."""
        check_expand(action)
        expansion = self._expansion(position, action, recorded=recorded)
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            for index, answer_class in outcome["units"]:
                await expansion.replay(index, answer_class)
            nodes = tuple(self._run.tree[f"{position}.{index}"] for index, _ in outcome["units"])
            await expansion.cancel()
            return Samples(nodes, expansion.num_requested, self._journal.snapshot_of(recorded))
        self._journal.begin(position, action, encoded, recorded)
        items = await expansion.drain()
        snapshot = self._run.snapshot()
        units = [[unit.index, node.answer_class] for unit, node in items]
        outcome = {"units": units, "snapshot": snapshot_to_json(snapshot)}
        await self._journal.finish(position, encoded, outcome)
        return Samples(tuple(node for _, node in items), expansion.num_requested, snapshot)

    async def start(self, position: int, action: Start, encoded: Json, recorded: RecordedAction | None) -> Stream:
        """Lets samples begin; `next` delivers them."""
        check_expand(action.expand)
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
            self._journal.begin(position, action, encoded, recorded)
            self._journal.note_done(position, encoded, {})
            self._streams[position].begin()
        return Stream(position)

    async def next(self, position: int, action: Next, encoded: Json, recorded: RecordedAction | None) -> Node | None:
        """Delivers a stream's next sample; None at its end."""
        expansion = self._stream_of(action)
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            return await expansion.replay(outcome["unit"], outcome.get("class"))
        item = await expansion.next()
        if item is None:
            await self._journal.finish(position, encoded, {"unit": None})
            return None
        unit, node = item
        await self._journal.finish(position, encoded, {"unit": unit.index, "class": node.answer_class})
        return node

    async def cancel(self, position: int, action: Cancel, encoded: Json, recorded: RecordedAction | None) -> None:
        """Ends a stream and what it has in flight."""
        await self._stream_of(action).cancel()
        if recorded is None:
            await self._journal.finish(position, encoded, {})

    async def conclude(
        self, position: int, action: Conclude, encoded: Json, recorded: RecordedAction | None
    ) -> Node | None:
        """Has a model state the answer after what was thought."""
        expand = self._conclusion(action)
        expansion = self._expansion(position, expand, recorded=recorded, is_conclusion=True)
        if recorded is not None and recorded.done is not None:
            outcome = recorded.done["outcome"]
            node = await expansion.replay(outcome["unit"], outcome.get("class"))
            await expansion.cancel()
            return node
        self._journal.begin(position, action, encoded, recorded)
        items = await expansion.drain()
        unit, node = items[0]
        await self._journal.finish(position, encoded, {"unit": unit.index, "class": node.answer_class})
        return node

    def _stream_of(self, action: Next | Cancel) -> Expansion:
        expansion = self._streams.get(action.stream.id)
        if expansion is None:
            raise PolicyFailed(f"the policy uses stream {action.stream.id}, which it has not started")
        return expansion

    def _conclusion(self, action: Conclude) -> Expand:
        return Expand(
            [action.node],
            model=action.model,
            max_tokens=max(1, self._run.spec.budget.reserve_tokens),
            sampling=GREEDY,
            monitors=(AnswerComplete(),),
            forced=self._run.reader.cue,
        )

    def _expansion(self, position: int, action: Expand, **options: Any) -> Expansion:  # Any: as `Expansion` takes them
        expansion = Expansion(self._run, position, action, **options)
        self._expansions = [known for known in self._expansions if not known.is_over]
        self._expansions.append(expansion)
        return expansion

    async def settle_cut_short(self, position: int, action: Action, recorded: RecordedAction) -> None:
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
