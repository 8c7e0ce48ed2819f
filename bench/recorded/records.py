"""What a recorded pool holds: a header, problems, and their samples, which can be cut at any token."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.cost import ModelCost
from orchestrator.engine import FinishReason, Message, ModelDescription
from orchestrator.sampling import Sampling

_ENDED_BY_A_TOKEN = frozenset({FinishReason.END, FinishReason.TOOL_CALL})


class RecordedModel(BaseModel):
    """What a pool says of a model that wrote or scored its samples; see `orchestrator.engine.ModelDescription`."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    name: str
    engine: str
    context_length: int = Field(ge=1)
    cost: ModelCost
    shares_prompt: bool = True

    @classmethod
    def of(cls, description: ModelDescription) -> RecordedModel:
        """The part of a description that a pool keeps."""
        return cls(
            name=description.name,
            engine=description.engine,
            context_length=description.context_length,
            cost=description.cost,
            shares_prompt=description.shares_prompt,
        )


class Header(BaseModel):
    """The first line of a pool: what was asked of whom."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    format: Literal[1] = 1
    set: str = Field(description="Name of the set of problems")
    answer_kind: str = Field(description="How answers were read")
    max_sample_tokens: int = Field(ge=1, description="Where samples were cut")
    model: RecordedModel
    sampling: Sampling
    seed: int = Field(ge=0, description="All samples' seeds derive from it")
    num_samples: int = Field(ge=1, description="Samples of each problem")
    has_logprobs: bool = Field(default=False, description="Whether samples have log probabilities")
    scorers: dict[str, RecordedModel] = Field(default_factory=dict, description="Who scored steps, by name")
    machine: dict[str, Any] = Field(default_factory=dict)  # Any: JSON values, for people
    created: str = Field(default="", description="When recording began")

    def difference(self, wanted: Header) -> str | None:
        """The first thing in which ``wanted`` asks for something else, as a phrase; None if recording can go on."""
        skipped = {"machine", "created"}
        return _difference(self.model_dump(exclude=skipped), wanted.model_dump(exclude=skipped))


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> str | None:  # Any: JSON values
    for name in {**held, **wanted}:
        one, two = held.get(name), wanted.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            if (found := _difference(one, two, f"{path}{name}.")) is not None:
                return found
        elif one != two:
            return f"{path}{name} is {one!r} in it and {two!r} here"
    return None


@dataclass(frozen=True, slots=True)
class StepScores:
    """What a process reward model made of one sample: a reward in [0, 1] for each step, and the tokens it read."""

    steps: tuple[float, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class PoolSample:
    """One recorded sample.

    Attributes:
        text: What the model wrote.
        ends: For each of its tokens, where in `text` it ends; a token that adds no text (an end of turn) ends where the
            one before it does.
        finish: Why it ended.
        answer: The final answer, of samples that the model ended itself.
        is_correct: Whether that is right.
        logprobs: For each token but an end of turn, minus its log probability in hundredths of a nat, from 0 to 65535;
            None if they were not recorded.
        scores: By scorer; one that could not read the sample is absent.
    """

    text: str
    ends: array[int]
    finish: FinishReason
    answer: str | None = None
    is_correct: bool = False
    logprobs: array[int] | None = None
    scores: Mapping[str, StepScores] = field(default_factory=dict)

    @property
    def output_tokens(self) -> int:
        """Its length, an end of turn included."""
        return len(self.ends)

    @property
    def text_tokens(self) -> int:
        """Its length without an end of turn."""
        length = len(self.ends)
        has_end = self.finish in _ENDED_BY_A_TOKEN and length > 0 and not self.text_of(length - 1, length)
        return length - has_end

    def text_of(self, start: int, end: int) -> str:
        """The text of tokens ``start`` to ``end`` (exclusive)."""
        return self.text[self.ends[start - 1] if start else 0 : self.ends[end - 1] if end else 0]


@dataclass(frozen=True, slots=True)
class PoolProblem:
    """One problem with its samples.

    Attributes:
        id: As in its set.
        text: What is asked.
        messages: The conversation that the model saw.
        reference: The right answer, for people; None if there is none to show.
        prompt_tokens: Length of the conversation.
        samples: In the order of their seeds; equal ones may be one object.
    """

    id: str
    text: str
    messages: tuple[Message, ...]
    reference: str | None
    prompt_tokens: int
    samples: tuple[PoolSample, ...]

    @property
    def num_correct(self) -> int:
        """How many samples are right."""
        return sum(sample.is_correct for sample in self.samples)


@dataclass(frozen=True)
class Pool:
    """A pool in memory.

    Attributes:
        name: Of its file, without the suffix.
        header: What was asked of whom.
        problems: By id, in the order of the file.
    """

    name: str
    header: Header
    problems: Mapping[str, PoolProblem]

    def problem_of(self, messages: Sequence[Message]) -> PoolProblem | None:
        """The problem that a conversation asks; None if the pool does not hold it."""
        return self._by_messages.get(tuple(messages))

    @cached_property
    def _by_messages(self) -> dict[tuple[Message, ...], PoolProblem]:
        return {problem.messages: problem for problem in reversed(list(self.problems.values()))}
