"""Shapes of jobs: which calls a job made of which model, after what, continuing what, and how long the replies were.

A shape is what is left of a job when its text is taken away. `orchestrator.planning.simulation.live` records them from
real policies under the real controller; simple ones can be described.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from orchestrator.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """One call.

    Attributes:
        role: Which model.
        after: It is made as soon as so many sequences of the job have ended. Counting them, instead of naming them,
            keeps both barriers (all of a level) and streams (whichever ends first) what they are.
        parent: The sequence that it continues, counted through the job's calls; -1 for the job's prompt.
        prompt_tokens: What it adds to that: the whole prompt where ``parent`` is -1.
        piece: Calls of one job with equal ``piece`` and ``parent`` add the same text.
        outputs: Tokens of each of its sequences; 0 for one that only reads (a score).
    """

    role: str = "small"
    after: int = 0
    parent: int = -1
    prompt_tokens: int = 0
    piece: int = 0
    outputs: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobShape:
    """All calls of a job, in the order they were made.

    Attributes:
        policy: Where it comes from, for reports.
        calls: The calls.
    """

    policy: str
    calls: tuple[CallShape, ...]

    @property
    def num_sequences(self) -> int:
        """Of all calls."""
        return sum(len(call.outputs) for call in self.calls)

    @property
    def output_tokens(self) -> int:
        """Of all calls."""
        return sum(sum(call.outputs) for call in self.calls)

    @property
    def prompt_tokens(self) -> int:
        """The longest prompt that the job begins with."""
        return max((call.prompt_tokens for call in self.calls if call.parent < 0), default=0)

    def scaled(self, *, prompt_tokens: int | None = None, outputs: float = 1.0) -> Self:
        """The same job with another prompt, and replies so many times as long (each at least one token)."""

        def scaled(call: CallShape) -> CallShape:
            prompt = call.prompt_tokens
            if prompt_tokens is not None and call.parent < 0:
                prompt = prompt_tokens
            longer = tuple(max(1, round(tokens * outputs)) if tokens else 0 for tokens in call.outputs)
            return replace(call, prompt_tokens=prompt, outputs=longer)

        return replace(self, calls=tuple(map(scaled, self.calls)))

    def check(self) -> None:
        """Raises ValueError if the shape cannot be played: a call that continues, or waits for, what never comes."""
        done = 0
        for number, call in enumerate(self.calls):
            if not call.outputs or min(call.outputs) < 0 or call.prompt_tokens < 0:
                raise ValueError(f"call {number} has no sequences, or negative tokens")
            if not 0 <= call.after <= done or not -1 <= call.parent < done:
                raise ValueError(f"call {number} waits for, or continues, what comes after it")
            done += len(call.outputs)

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """JSON values: the calls as rows."""
        rows = [
            [call.role, call.after, call.parent, call.prompt_tokens, call.piece, list(call.outputs)]
            for call in self.calls
        ]
        return {"policy": self.policy, "calls": rows}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:  # Any: JSON values
        """The inverse of `to_json`.

        Raises:
            InvalidRequest: That is no shape.
        """
        try:
            calls = tuple(
                CallShape(
                    role=role, after=after, parent=parent, prompt_tokens=tokens, piece=piece, outputs=tuple(outputs)
                )
                for role, after, parent, tokens, piece, outputs in data["calls"]
            )
            shape = cls(policy=str(data["policy"]), calls=calls)
            shape.check()
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(f"this is no shape of a job: {error}", field="shapes", value=str(data)[:100]) from None
        return shape


def one_call(outputs: Sequence[int], *, prompt_tokens: int, policy: str = "one_call", role: str = "small") -> JobShape:
    """A job of one call."""
    call = CallShape(role=role, prompt_tokens=prompt_tokens, outputs=tuple(outputs))
    return JobShape(policy=policy, calls=(call,))
