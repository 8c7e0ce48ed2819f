"""What the actions of a job write down: that one begins, what is about to be spent on it, what its policy was sent."""

from __future__ import annotations

from orchestrator.actions import Action, Snapshot
from orchestrator.budget import Amount
from orchestrator.controller.context import RunContext
from orchestrator.errors import TtcError
from orchestrator.journal import Json, RecordedAction, roots_of
from orchestrator.usage import Usage


class ActionJournal:
    """The rows of one action after another: a policy has one action under way at a time.

    Args:
        run: The job.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._spent = Usage()  # by the action under way, beside its samples

    def turn_page(self) -> None:
        """The next action comes; it has spent nothing yet."""
        self._spent = Usage()

    def begin(self, position: int, action: Action, encoded: Json, recorded: RecordedAction | None) -> None:
        """Notes that the action is begun, unless an earlier life has.

        Raises:
            TtcError: The job must stop.
        """
        self._run.check_interruption()
        if recorded is None:
            roots = roots_of(action)
            self._run.recorder.add("begin", {"a": position, "action": encoded, **({"roots": roots} if roots else {})})

    async def note_paid_work(self, position: int, amount: Amount) -> None:
        """What is about to be spent on something other than samples; charged as lost if this process dies now."""
        data = {"a": position, "r": self._run.next_request_id(), "units": [], "reserved": amount.to_json()}
        await self._run.recorder.write("dispatch", data)

    def note_done(self, position: int, encoded: Json, outcome: Json, *, error: TtcError | None = None) -> None:
        """Notes what the policy is sent, or what is thrown into it; durable with the next flush."""
        data: Json = {"a": position, "action": encoded, "outcome": outcome, "t": round(self._run.elapsed_s, 3)}
        if error is not None:
            data["error"] = error.fields()
        if spent := self._spent.to_json():
            data["usage"] = spent
        if self._run.limited_by is not None:
            data["limited"] = self._run.limited_by
        self._run.recorder.add("done", data)

    async def finish(self, position: int, encoded: Json, outcome: Json) -> None:
        """Notes what the policy is sent, and makes it durable."""
        self.note_done(position, encoded, outcome)
        await self._run.recorder.flush()

    def spend(self, usage: Usage) -> None:
        """Books what the action under way has cost beside its samples."""
        self._run.add_usage(usage)
        self.count(usage)

    def count(self, usage: Usage) -> None:
        """Adds to the action under way what was booked elsewhere, as a verifier's model work is."""
        self._spent += usage

    def snapshot_of(self, recorded: RecordedAction | None) -> Snapshot:
        """The budget as it stood when the action was done."""
        if recorded is None or recorded.done is None:
            return self._run.snapshot()
        return Snapshot(**recorded.done["outcome"]["snapshot"])


def snapshot_to_json(snapshot: Snapshot) -> Json:
    """As outcomes hold it; `ActionJournal.snapshot_of` is the inverse."""
    return {
        "remaining": dict(snapshot.remaining),
        "elapsed_s": snapshot.elapsed_s,
        "remaining_s": snapshot.remaining_s,
    }
