"""Asks a language model whether a solution is right and reads the probability of "yes" off its first token."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.engine import Message, Prompt
from orchestrator.errors import InvalidRequest
from orchestrator.sampling import GREEDY
from orchestrator.verifier import Candidate, Completion, Meter

_FIELD = re.compile(r"\{(?:problem|text|answer)\}")

FINAL_TEMPLATE = """\
Below are a problem and a solution that somebody proposes for it. Check the solution: does its reasoning hold, and does
its final answer solve the problem that was posed?

[Problem]
{problem}

[Proposed solution]
{text}

[Final answer]
{answer}

Is the final answer correct? Reply with one word, Yes or No."""

PARTIAL_TEMPLATE = """\
Below are a problem and the first part of a solution that somebody is still writing. Check what is there so far: is
every step right, and does it lead towards solving the problem that was posed?

[Problem]
{problem}

[Solution so far]
{text}

Is the solution correct so far? Reply with one word, Yes or No."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generative:
    """The probability that a model, asked whether the solution is right, answers yes: p_yes / (p_yes + p_no).

    One token per candidate. The probabilities are sums over the spellings of yes and no among the likeliest first
    tokens; the score is missing if none of them is there.

    Attributes:
        model: Role or name of the model that is asked.
        template: What it is asked, with ``{problem}``, ``{text}`` and ``{answer}``; empty for the built-in questions,
            one for finished solutions and one for partial ones.
        num_logprobs: How many of the likeliest first tokens are looked at.
    """

    source: ClassVar[str] = (
        "Kadavath et al. 2022, arXiv:2207.05221 (P(True)); Zhang et al. 2024, arXiv:2408.15240 (generative verifiers)"
    )
    needs: ClassVar[tuple[str, ...]] = ("a model in the role 'verifier'", "log probabilities")

    model: str = "verifier"
    template: str = ""
    num_logprobs: int = 20

    def __post_init__(self) -> None:
        if self.num_logprobs < 2:
            raise InvalidRequest(
                f"num_logprobs must be at least 2, not {self.num_logprobs}",
                field="num_logprobs",
                value=self.num_logprobs,
            )

    @property
    def name(self) -> str:
        """The name its scores are kept under."""
        return "generative"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        """The probability of yes for each candidate; None where it cannot be told or was not paid for."""
        completions = await meter.generate(
            [self.question(candidate) for candidate in candidates],
            model=self.model,
            max_tokens=1,
            sampling=GREEDY,
            num_logprobs=self.num_logprobs,
        )
        return [probability_of_yes(completion) if completion is not None else None for completion in completions]

    def question(self, candidate: Candidate) -> Prompt:
        """What the model is asked about a candidate."""
        is_whole = candidate.is_final or candidate.answer is not None
        question = self.template or (FINAL_TEMPLATE if is_whole else PARTIAL_TEMPLATE)
        fields = {"{problem}": candidate.problem, "{text}": candidate.text, "{answer}": candidate.answer or "(none)"}
        return Prompt((Message("user", _filled(question, fields)),))


def probability_of_yes(completion: Completion) -> float | None:
    """P(yes) / (P(yes) + P(no)) from the alternatives for the first token, in [0, 1]; None if neither is there."""
    is_yes = {True: 0.0, False: 0.0}
    for token, logprob in completion.first_token:
        word = token.strip(" \t\n\u2581\u0120*\"'.,").casefold()  # tokenizers write a space as U+2581 or U+0120
        if word in {"yes", "no"} and not math.isnan(logprob):
            is_yes[word == "yes"] += math.exp(min(0.0, logprob))
    total = is_yes[True] + is_yes[False]
    return is_yes[True] / total if total > 0 else None


def _filled(template: str, fields: dict[str, str]) -> str:
    """The template with its fields filled in one pass, so that braces in a solution stay as they are."""
    return _FIELD.sub(lambda match: fields[match[0]], template)
