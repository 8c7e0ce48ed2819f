"""What a pool says to a job: samples that it has not had yet, each of them piece by piece up to where it is cut."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.bench.recorded.records import PoolSample
from orchestrator.engine import MAX_UNREAD_TOKENS, Delta, Finished, FinishReason, GenerateRequest
from orchestrator.stopping import SampleText

_MOST_TREES = 4096


class Drawn(NamedTuple):
    """Places of the samples that were drawn, and whether the tree had asked this before."""

    places: list[int]
    was_asked: bool


@dataclass(slots=True)
class _Order:
    places: list[int]
    num_taken: int = 0


class Drawings:
    """Draws samples without replacement within a tree.

    What a tree has had is forgotten once 4096 others were served after it; trees that were released go first.

    Args:
        num_samples: Of each problem.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._trees: OrderedDict[str, dict[str, _Order]] = OrderedDict()

    def take(self, tree_id: str, problem_id: str, *, count: int, seed: int) -> Drawn:
        """The next ``count`` samples, or as many as are left.

        Args:
            tree_id: The tree; every request without one is a tree of its own.
            problem_id: The problem.
            count: How many.
            seed: Of the order, if this is the tree's first request for the problem.
        """
        orders = self._trees.get(tree_id) if tree_id else None
        if orders is None:
            orders = {}
            if tree_id:
                self._trees[tree_id] = orders
                if len(self._trees) > _MOST_TREES:
                    self._trees.popitem(last=False)
        else:
            self._trees.move_to_end(tree_id)
        order = orders.get(problem_id)
        was_asked = order is not None
        if order is None:
            rng = random.Random(f"{seed}/{problem_id}")
            order = orders[problem_id] = _Order(rng.sample(range(self._num_samples), self._num_samples))
        start = order.num_taken
        order.num_taken = min(start + count, self._num_samples)
        return Drawn(order.places[start : order.num_taken], was_asked)

    def release(self, tree_id: str) -> None:
        """The tree is probably over."""
        if tree_id in self._trees:
            self._trees.move_to_end(tree_id, last=False)


class Reply:
    """A recorded sample as it is replayed.

    Args:
        index: Its place in the request.
        sample: What was recorded.
        request: Where it is cut: at the limit, after a stop string, by a monitor. A sample that was cut when it was
            recorded ends there, whatever the limit.

    Attributes:
        num_taken: Tokens delivered.
        is_finished: Whether `finished` was delivered; up to the caller.
    """

    def __init__(self, index: int, sample: PoolSample, request: GenerateRequest) -> None:
        self._index = index
        self._sample = sample
        self._has_logprobs = request.num_logprobs > 0
        self.num_taken = 0
        self.is_finished = False
        self._end, self._reason, self._detail = _ending(sample, request.samples[index].max_tokens, request)

    @property
    def finished(self) -> Finished:
        """Its last event."""
        return Finished(self._index, self._reason, self._end, self._detail)

    @property
    def cancelled(self) -> Finished:
        """Its last event, if it ends now."""
        return Finished(self._index, FinishReason.CANCELLED, self.num_taken)

    @property
    def is_over(self) -> bool:
        """Whether all its tokens were delivered."""
        return self.num_taken >= self._end

    def next_delta(self) -> Delta:
        """As many tokens more as a delta may have."""
        start = self.num_taken
        end = self.num_taken = min(start + MAX_UNREAD_TOKENS, self._end)
        sample = self._sample
        logprobs = None
        if self._has_logprobs and sample.logprobs is not None:
            logprobs = tuple(value / -100 for value in sample.logprobs[start:end])
        return Delta(self._index, sample.text_of(start, end), end - start, logprobs=logprobs)


class _Ending(NamedTuple):
    num_tokens: int
    reason: FinishReason
    detail: str | None = None


def _ending(sample: PoolSample, max_tokens: int, request: GenerateRequest) -> _Ending:
    if request.monitors or any(stop in sample.text for stop in request.stop):
        watched = SampleText(stop=request.stop, monitors=request.monitors)
        for place in range(min(max_tokens, sample.text_tokens)):
            piece = sample.text_of(place, place + 1)
            if (ending := watched.push(piece.encode(), piece)) is not None:
                return _Ending(place + 1, ending.reason, ending.detail)
    if sample.output_tokens <= max_tokens:
        return _Ending(sample.output_tokens, sample.finish)
    return _Ending(max_tokens, FinishReason.LENGTH)
