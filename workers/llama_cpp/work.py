"""What the decode thread works on: jobs (one per request) made of tasks (one per sequence).

A task knows its tokens and what to do with the logits it asked for; when and with which others it is computed is the
loop's business. Writing samples has a module of its own, `generation`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from orchestrator.workers.llama_cpp.outbox import post
from orchestrator.workers.llama_cpp.prefix_cache import Lease
from orchestrator.workers.llama_cpp.radix import Node
from orchestrator.workers.llama_cpp.sampler import FloatRow, log_normaliser


class Task:
    """One sequence to compute.

    Attributes:
        job: The request it belongs to.
        tokens: All its tokens known so far.
        first_output: Position of the first token whose logits are wanted; of later ones, those that `wants` names.
        lease: Its place in the cache while it is live.
        wanted: Where its cached prefix ends, while it waits.
        num_read: How far its KV was computed (or found) when it was taken off.
        recomputed_tokens: Tokens whose KV was computed for it although its owner had had them in the cache.
        order: When it was admitted; later ones make room first.
    """

    def __init__(self, job: Job, tokens: list[int], *, first_output: int) -> None:
        self.job = job
        self.tokens = tokens
        self.first_output = first_output
        self.lease: Lease | None = None
        self.wanted: Node | None = None
        self.num_read = 0
        self.recomputed_tokens = 0
        self.order = 0

    @property
    def num_pending(self) -> int:
        """Known tokens whose KV is not computed yet."""
        return len(self.tokens) - (len(self.lease.tokens) if self.lease else 0)

    @property
    def cache_limit(self) -> int:
        """How many of its tokens may come from the cache: not the first one whose logits are wanted."""
        return self.first_output

    @property
    def is_held(self) -> bool:
        """Whether it must wait for its reader."""
        return False

    @property
    def tokens_ahead(self) -> int:
        """Cells it will want beyond its known tokens."""
        return 0

    @property
    def is_over(self) -> bool:
        """Whether nobody is expected to go on from its last token."""
        return False

    def wants(self, position: int) -> bool:
        """Whether the logits at a position are wanted."""
        return position >= self.first_output

    def take_row(self, position: int, logits: FloatRow) -> bool:
        """Takes the logits at a position; True when the task is complete."""
        raise NotImplementedError


class Job:
    """A request as the loop sees it.

    Attributes:
        fairness_key: Jobs with the same key share one turn.
        owner: Whose the prefixes are that it leaves in the cache: its tree, or the job itself if it belongs to none.
        salt: Jobs with different ones never share cached prefixes.
        priority: Smaller is served first.
        deadline: On the monotonic clock; None for no limit.
        waiting: Tasks that are not live, first to be admitted first.
        live: Tasks that are.
        arrival: Order of submission.
        reading: The task that reads the prompt, always the first to run.
        is_read: Whether it is complete.
    """

    reading: Task

    def __init__(self, *, tree_id: str, salt: str, priority: int, deadline: float | None) -> None:
        self.fairness_key: object = tree_id or self
        self.owner: object = tree_id or self
        self.salt: object = salt
        self.priority = priority
        self.deadline = deadline
        self.waiting: deque[Task] = deque()
        self.live: set[Task] = set()
        self.arrival = 0
        self.is_read = False
        self._cached_tokens: int | None = None

    def share_nothing(self) -> None:
        """Makes it find no other job's prefixes, and leave none."""
        self.owner = self.salt = self

    @property
    def is_begun(self) -> bool:
        """Whether one of its tasks has been live."""
        return self._cached_tokens is not None

    @property
    def num_unfinished(self) -> int:
        """Places it could fill, now or once its prompt is read."""
        return len(self.waiting) + len(self.live)

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt came from the cache."""
        return self._cached_tokens or 0

    def admitted(self, cached_tokens: int) -> None:
        """A task became live with so many tokens from the cache; only what the first one found was there before."""
        if self._cached_tokens is None:
            self._cached_tokens = cached_tokens

    def ended(self, task: Task) -> None:
        """A task took its last row."""

    def cancel(self, detail: str | None) -> None:
        """Ends the job on request, or at its deadline; live tasks were taken off before."""

    def fail(self, error: Exception) -> None:
        """Ends the job with an error."""

    def flush(self, now: float) -> None:
        """Sends what should not wait longer; ``now`` is on the monotonic clock."""


class Reading(Task):
    """Reads a prompt for the logits of its last token."""

    def __init__(self, job: Job, tokens: list[int]) -> None:
        super().__init__(job, tokens, first_output=len(tokens) - 1)
        self.logits: FloatRow | None = None

    def take_row(self, position: int, logits: FloatRow) -> bool:  # noqa: ARG002  one interface
        """Keeps the logits."""
        self.logits = logits.copy()
        return True


class Scoring(Task):
    """Reads a prompt and given tokens for the log probabilities of the latter."""

    def __init__(self, job: Job, prompt: list[int], given: Sequence[int]) -> None:
        super().__init__(job, [*prompt, *given[:-1]], first_output=len(prompt) - 1)
        self._given = given
        self.logprobs: list[float] = []

    @property
    def cache_limit(self) -> int:
        """Up to the first token that is still to be scored."""
        return self.first_output + len(self.logprobs)

    def take_row(self, position: int, logits: FloatRow) -> bool:
        """Scores the token that follows."""
        token = self._given[position - self.first_output]
        self.logprobs.append(float(logits[token]) - log_normaliser(logits))
        return len(self.logprobs) == len(self._given)


class Judging(Reading):
    """Reads a prompt and steps with a tag after each for how likely the tag is answered with the good token.

    Args:
        job: The request.
        tokens: Prompt, steps and tags.
        tags: Positions of the tags whose answers are wanted, ascending.
        answers: The tokens that say good and bad.
        is_over: No step is expected to follow.
    """

    def __init__(
        self, job: Job, tokens: list[int], *, tags: Sequence[int], answers: tuple[int, int], is_over: bool
    ) -> None:
        super().__init__(job, tokens)
        self._is_over = is_over
        self.first_output = tags[0]
        self._tags = deque(tags)
        self._answers = answers
        self.rewards: list[float] = []

    @property
    def is_over(self) -> bool:
        """Whether no step is expected to follow."""
        return self._is_over

    @property
    def cache_limit(self) -> int:
        """Up to the first tag that is still to be judged."""
        return self._tags[0] if self._tags else len(self.tokens)

    def wants(self, position: int) -> bool:
        """Whether it is a tag to be judged."""
        return position in self._tags

    def take_row(self, position: int, logits: FloatRow) -> bool:  # noqa: ARG002  one interface
        """Judges one step: P(good) / (P(good) + P(bad))."""
        self._tags.popleft()
        good, bad = (float(logits[token]) for token in self._answers)
        self.rewards.append(1 / (1 + math.exp(min(bad - good, 700.0))))
        return not self._tags


class ReadingJob(Job):
    """A single `Reading`, `Scoring` or `Judging` whose caller awaits how many of its tokens were cached."""

    def __init__(self, *, tree_id: str = "", salt: str = "") -> None:
        super().__init__(tree_id=tree_id, salt=salt, priority=0, deadline=None)
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[int] = self.loop.create_future()

    def add(self, task: Task) -> None:
        """Names what is to be read."""
        self.reading = task
        self.waiting.append(task)

    def ended(self, task: Task) -> None:  # noqa: ARG002  one interface
        """Tells the caller."""
        self._settle(lambda: self.done.set_result(self.cached_tokens))

    def fail(self, error: Exception) -> None:
        """Tells the caller."""
        self._settle(lambda: self.done.set_exception(error))

    def _settle(self, act: Callable[[], None]) -> None:
        def settle() -> None:
            if not self.done.done():
                act()

        post(self.loop, settle)
