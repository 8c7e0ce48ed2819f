"""Lines of a pool's file: a problem with its samples, by columns, as JSON."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.bench.recorded.records import Header, PoolProblem, PoolSample, StepScores
from orchestrator.engine import FinishReason, Message
from orchestrator.errors import InvalidRequest

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTHS = {digit: length for length, digit in enumerate(_DIGITS)}
_PIECE = re.compile(r"\((\d{1,9})\)|([0-9A-Za-z])")
MAX_LOGPROB = 65535
"""Hundredths of a nat; what is less likely than e ** -655.35 is written as if it were that likely."""
_SCORE_DIGITS = 4

_Count: TypeAlias = Annotated[int, Field(ge=0)]
_Logprob: TypeAlias = Annotated[int, Field(ge=0, le=MAX_LOGPROB)]
_Reward: TypeAlias = Annotated[float, Field(ge=0, le=1)]
_Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


def encode_lengths(lengths: Iterable[int]) -> str:
    """Numbers of characters as one text: a digit in base 62 each, or, from 62 on, the decimal number in brackets."""
    return "".join(_DIGITS[length] if length < len(_DIGITS) else f"({length})" for length in lengths)


def decode_lengths(text: str) -> list[int]:
    """The inverse of `encode_lengths`.

    Raises:
        ValueError: The text is none of its.
    """
    if text.isalnum() and text.isascii():
        return [_LENGTHS[digit] for digit in text]
    found = list(_PIECE.finditer(text))
    if sum(len(match[0]) for match in found) != len(text):
        raise ValueError(f"no lengths of tokens: {text[:80]!r}")
    return [int(match[1]) if match[1] else _LENGTHS[match[2]] for match in found]


class ScoreColumns(BaseModel):
    """Rewards of the steps of each different sample, None for those that were not scored, and the tokens read."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    steps: list[list[_Reward] | None]
    prompt_tokens: list[_Count]


class ProblemLine(BaseModel):
    """A problem; samples that are equal in everything are held once, and `order` says which one comes when."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: str
    text: str
    messages: list[tuple[_Role, str]] = Field(min_length=1)
    reference: str | None = None
    prompt_tokens: _Count
    order: list[_Count]
    texts: list[str]
    pieces: list[str] = Field(description="Characters of each token, see `encode_lengths`")
    finishes: list[FinishReason]
    answers: list[str | None]
    correct: list[bool]
    logprobs: list[list[_Logprob]] | None = None
    scores: dict[str, ScoreColumns] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agrees(self) -> ProblemLine:
        columns: dict[str, Sequence[Any]] = {name: getattr(self, name) for name in _COLUMNS}  # Any: of no interest
        if self.logprobs is not None:
            columns["logprobs"] = self.logprobs
        for name, scores in self.scores.items():
            columns |= {f"scores.{name}.steps": scores.steps, f"scores.{name}.prompt_tokens": scores.prompt_tokens}
        for name, column in columns.items():
            if len(column) != len(self.texts):
                raise ValueError(f"{name} has {len(column)} entries for {len(self.texts)} texts")
        if self.order and max(self.order) >= len(self.texts):
            raise ValueError(f"order names sample {max(self.order)} of {len(self.texts)}")
        return self

    def problem(self, header: Header) -> PoolProblem:
        """The problem.

        Raises:
            ValueError: It is not what the header announces, or its columns contradict each other.
        """
        if len(self.order) != header.num_samples:
            raise ValueError(f"it has {len(self.order)} samples, the header says {header.num_samples}")
        if self.scores.keys() != header.scorers.keys():
            raise ValueError(f"it has scores of {list(self.scores)}, the header says {list(header.scorers)}")
        if (self.logprobs is not None) != header.has_logprobs:
            raise ValueError("it and the header disagree on whether there are log probabilities")
        distinct = [self._sample(index) for index in range(len(self.texts))]
        return PoolProblem(
            id=self.id,
            text=self.text,
            messages=tuple(Message(role, content) for role, content in self.messages),
            reference=self.reference,
            prompt_tokens=self.prompt_tokens,
            samples=tuple(distinct[index] for index in self.order),
        )

    def _sample(self, index: int) -> PoolSample:
        text, lengths = self.texts[index], decode_lengths(self.pieces[index])
        if sum(lengths) != len(text):
            raise ValueError(f"the tokens of text {index} have {sum(lengths)} characters, the text has {len(text)}")
        sample = PoolSample(
            text=text,
            ends=array("I", accumulate(lengths)),
            finish=self.finishes[index],
            answer=self.answers[index],
            is_correct=self.correct[index],
            logprobs=None if self.logprobs is None else array("H", self.logprobs[index]),
            scores={
                name: StepScores(tuple(steps), scores.prompt_tokens[index])
                for name, scores in self.scores.items()
                if (steps := scores.steps[index]) is not None
            },
        )
        if sample.logprobs is not None and len(sample.logprobs) != sample.text_tokens:
            raise ValueError(f"text {index} has {sample.text_tokens} tokens and {len(sample.logprobs)} logprobs")
        return sample


_COLUMNS = ("texts", "pieces", "finishes", "answers", "correct")


def line_of(problem: PoolProblem, header: Header) -> bytes:
    """The problem as a line, with its end; rewards are rounded to 4 decimals.

    Raises:
        InvalidRequest: A text cannot be written: it holds half a character.
    """
    places: dict[object, int] = {}
    distinct: list[PoolSample] = []
    order: list[int] = []
    for sample in problem.samples:
        place = places.setdefault(_identity(sample), len(distinct))
        if place == len(distinct):
            distinct.append(sample)
        order.append(place)
    data: dict[str, Any] = {  # Any: JSON values
        "id": problem.id,
        "text": problem.text,
        "messages": [[message.role, message.content] for message in problem.messages],
        "prompt_tokens": problem.prompt_tokens,
        "order": order,
        "texts": [sample.text for sample in distinct],
        "pieces": [encode_lengths(end - start for start, end in pairwise((0, *sample.ends))) for sample in distinct],
        "finishes": [sample.finish.value for sample in distinct],
        "answers": [sample.answer for sample in distinct],
        "correct": [sample.is_correct for sample in distinct],
    }
    if problem.reference is not None:
        data["reference"] = problem.reference
    if header.has_logprobs:
        data["logprobs"] = [list(sample.logprobs or ()) for sample in distinct]
    if header.scorers:
        data["scores"] = {name: _score_columns(name, distinct) for name in header.scorers}
    try:
        return (json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n").encode()
    except UnicodeEncodeError as error:
        message = f"problem {problem.id!r} cannot be recorded: it holds half a character, {error.object[error.start]!r}"
        raise InvalidRequest(message, field="problem", value=problem.id) from None


def _identity(sample: PoolSample) -> object:
    return (
        sample.text,
        sample.ends.tobytes(),
        sample.finish,
        sample.answer,
        sample.is_correct,
        None if sample.logprobs is None else sample.logprobs.tobytes(),
        tuple(sorted(sample.scores.items(), key=lambda item: item[0])),
    )


def _score_columns(name: str, samples: Sequence[PoolSample]) -> dict[str, Any]:  # Any: JSON values
    scores = [sample.scores.get(name) for sample in samples]
    return {
        "steps": [
            None if found is None else [round(reward, _SCORE_DIGITS) for reward in found.steps] for found in scores
        ],
        "prompt_tokens": [0 if found is None else found.prompt_tokens for found in scores],
    }
