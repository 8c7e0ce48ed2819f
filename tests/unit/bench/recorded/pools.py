"""Pools made by hand."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from orchestrator.bench.recorded.pool import Header, Pool, PoolProblem, PoolSample, RecordedModel, StepScores
from orchestrator.cost import ModelCost
from orchestrator.engine import FinishReason, GenerateRequest, Message, Prompt, SampleSpec
from orchestrator.sampling import Sampling

SAMPLING = Sampling(temperature=1.0)


def a_sample(
    text: str,
    lengths: Sequence[int] | None = None,
    *,
    finish: FinishReason = FinishReason.END,
    answer: str | None = None,
    is_correct: bool = False,
    logprobs: Sequence[int] | None = None,
    **scores: Sequence[float],
) -> PoolSample:
    """A token for each character and one that ends the turn, unless told otherwise."""
    lengths = [1] * len(text) + [0] * (finish is FinishReason.END) if lengths is None else lengths
    return PoolSample(
        text=text,
        ends=array("I", accumulate(lengths)),
        finish=finish,
        answer=answer,
        is_correct=is_correct,
        logprobs=None if logprobs is None else array("H", logprobs),
        scores={name: StepScores(tuple(steps), 40) for name, steps in scores.items()},
    )


def a_problem(text: str, samples: Iterable[PoolSample], *, prompt_tokens: int = 7) -> PoolProblem:
    """Its id is its text in quotation marks."""
    return PoolProblem(f"<{text}>", text, (Message("user", text),), None, prompt_tokens, tuple(samples))


def a_header(**values: Any) -> Header:
    model = RecordedModel(name="tiny", engine="scripted", context_length=512, cost=ModelCost(parameters=1000))
    defaults = {
        "set": "sums",
        "answer_kind": "exact",
        "max_sample_tokens": 64,
        "model": model,
        "sampling": SAMPLING,
        "seed": 0,
        "num_samples": 1,
    }
    return Header(**(defaults | values))


def a_pool(problems: Mapping[str, Sequence[PoolSample]], **header: Any) -> Pool:
    """All problems have as many samples as the first; who scored the first sample, scored all."""
    first = next(iter(problems.values()))
    scorers = {name: a_header().model for name in first[0].scores}
    has_logprobs = first[0].logprobs is not None
    made = [a_problem(text, samples) for text, samples in problems.items()]
    described = {"num_samples": len(first), "scorers": scorers, "has_logprobs": has_logprobs} | header
    return Pool("hand-made", a_header(**described), {problem.id: problem for problem in made})


def a_request(
    text: str = "?", *max_tokens: int, tree: str = "tree", seed: int = 5, request_id: str = "request", **options: Any
) -> GenerateRequest:
    samples = tuple(SampleSpec(seed + place, limit) for place, limit in enumerate(max_tokens))
    options = {"sampling": SAMPLING} | options
    prompt = Prompt((Message("user", text),))
    return GenerateRequest(request_id=request_id, prompt=prompt, samples=samples, tree_id=tree, **options)
