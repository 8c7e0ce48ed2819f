"""Dispatches actions to what carries them out, or takes their outcomes from the journal; does the free ones itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

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
    Score,
    Start,
)
from orchestrator.controller.action_journal import ActionJournal
from orchestrator.controller.checks import check_answer, checked_encoding, extended_by
from orchestrator.controller.context import RunContext
from orchestrator.controller.other_actions import OtherActions, WaitingForHuman
from orchestrator.controller.sampling_actions import SamplingActions
from orchestrator.engine import Engine, Prompt
from orchestrator.errors import PolicyFailed, ReplayDiverged, TtcError, from_fields
from orchestrator.isolation import KillablePool
from orchestrator.journal import Json, RecordedAction, roots_of
from orchestrator.scoring_guard import GuardedVerifier
from orchestrator.tree import Node
from orchestrator.usage import Usage

_LOG = logging.getLogger(__name__)

_RELEASE_TIMEOUT_S = 1.0


class _Level(NamedTuple):
    """A level of a search: nodes of the tree by then, and KV tokens kept, shared prefixes counted once or not."""

    num_nodes: int = 0
    unique: int = 0
    logical: int = 0


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
        self._is_offline = is_offline
        self._journal = ActionJournal(run)
        self._sampling = SamplingActions(run, self._journal)
        self._other = OtherActions(run, self._journal, verifier=verifier, pool=pool, is_offline=is_offline)
        self.proposal: Answer | None = None
        self._level = _Level()
        self._handlers: dict[type, Callable[..., Awaitable[Any]]] = {  # Any: outcomes differ by action
            Expand: self._sampling.expand,
            Start: self._sampling.start,
            Next: self._sampling.next,
            Cancel: self._sampling.cancel,
            Score: self._other.score,
            Embed: self._other.embed,
            Release: self._release,
            Propose: self._propose,
            Commit: self._commit,
            Conclude: self._sampling.conclude,
            Compute: self._other.compute,
            CallTool: self._other.call_tool,
            AskHuman: self._other.ask_human,
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
        encoded = checked_encoding(action)
        recorded = self._run.recording.check(position, encoded)
        if recorded is not None and recorded.done is not None:
            self._run.limited_by = self._run.limited_by or recorded.done.get("limited")
            if "error" in recorded.done:
                self._add_roots(action)  # they joined the tree before anything could go wrong
                await self._sampling.settle_cut_short(position, action, recorded)
                raise from_fields(recorded.done["error"])
        elif self._is_offline and not (recorded is not None and isinstance(action, AskHuman)):
            reason = f"the journal ends before action {position} ({encoded['type']})"
            if self._run.recording.final is not None:
                raise ReplayDiverged(f"{reason}, though its job was finished: the policy changed", position=position)
            raise PolicyFailed(f"{reason}; it cannot be replayed")
        self._journal.turn_page()
        try:
            self._add_roots(action)
            return await handler(position, action, encoded, recorded)
        except TtcError as error:
            self._journal.note_done(position, encoded, {}, error=error)
            raise
        except WaitingForHuman:
            raise
        except Exception as error:
            _LOG.exception("an action could not be carried out", extra={"action": encoded["type"]})
            failure = PolicyFailed(f"action {position} ({encoded['type']}) could not be carried out: {error!r}")
            self._journal.note_done(position, encoded, {}, error=failure)
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
        for node in extended_by(action):
            if node.id not in self._run.tree:
                raise PolicyFailed(
                    f"{type(action).__name__} goes on from node {node.id!r}, which this job has not made"
                )

    async def aclose(self) -> None:
        """Ends streams that the policy has left open."""
        await self._sampling.aclose()

    def abandon(self) -> None:
        """Books what expansions have cost that were cancelled together with the whole job."""
        self._sampling.abandon()

    # -- free actions ------------------------------------------------------------------------------------------

    async def _release(self, position: int, action: Release, encoded: Json, recorded: RecordedAction | None) -> None:
        kept = self._kept(action)
        if recorded is None:
            keep = [node.prompt() for node in action.all_but]
            for engine in self._run.fleet:
                await let_go(engine, self._run.job_id, keep=keep)
            self._journal.spend(kept)
            self._journal.note_done(position, encoded, {})

    def _kept(self, action: Release) -> Usage:
        """The KV tokens of what is kept; where the same level is narrowed down once more, what that changes."""
        if not action.all_but:
            return Usage()
        tree, before = self._run.tree, self._level
        self._level = now = _Level(len(tree), *tree.kv_tokens(self._run.root_tokens, ends=action.all_but))
        if now.num_nodes == before.num_nodes:
            return Usage(kept_kv_tokens=now.unique - before.unique, kept_logical_kv_tokens=now.logical - before.logical)
        return Usage(num_levels=1, kept_kv_tokens=now.unique, kept_logical_kv_tokens=now.logical)

    async def _propose(self, position: int, action: Propose, encoded: Json, recorded: RecordedAction | None) -> None:
        check_answer(action.answer)
        if action.answer.text is not None:
            self.proposal = action.answer
        if recorded is None:
            await self._journal.finish(position, encoded, {})

    async def _commit(self, position: int, action: Commit, encoded: Json, recorded: RecordedAction | None) -> None:
        self._run.committed, self._run.answering = action.node.id, None
        if recorded is None:
            if not action.node.is_root:
                self._run.emit("answer_delta", {"text": action.node.trajectory})
            self._journal.note_done(position, encoded, {})


async def let_go(engine: Engine, tree_id: str, *, keep: Sequence[Prompt] = ()) -> None:
    """Releases a tree's prefixes; an engine that cannot do so now does not hold the job up."""
    try:
        async with asyncio.timeout(_RELEASE_TIMEOUT_S):
            await engine.release(tree_id, keep=keep)
    except Exception:  # noqa: BLE001
        _LOG.warning("prefixes could not be released", exc_info=True, extra={"model": engine.describe().name})
