"""The reader of final answers: extraction and keys in process, all other comparisons in a killable worker."""

from __future__ import annotations

import logging
from collections import OrderedDict

from orchestrator.isolation import KillablePool, RemoteError, WorkerDied
from orchestrator.verifiers.answers import comparison
from orchestrator.verifiers.answers.kinds import AnswerKind, kind_of
from orchestrator.verifiers.answers.plain import cleaned, unwrapped

_LOG = logging.getLogger(__name__)

_MAX_COMPARED_CHARS = 500  # longer expressions are hostile or hopeless
_MAX_TIMEOUTS = 2  # after as many, an answer is compared as text only
_WORKER_MEMORY_BYTES = 4 << 30


def comparison_pool(*, num_workers: int = 1) -> KillablePool:
    """Workers with math-verify loaded, to be shared by many readers."""
    return KillablePool(
        num_workers=num_workers, preload=("math_verify", comparison.__name__), memory_bytes=_WORKER_MEMORY_BYTES
    )


def open_reader(
    kind: str = "auto", *, pool: KillablePool | None = None, timeout_s: float = 2.0, max_cached_pairs: int = 20_000
) -> Reader:
    """A reader of answers of one kind.

    Args:
        kind: ``auto``, ``boxed`` (also ``math``), ``number``, ``choice``, ``code``, ``json``, ``json:FIELD``,
            ``regex:PATTERN`` or ``text``.
        pool: Workers for comparisons (`comparison_pool`), which the caller closes; None for the reader's own, which
            start when the first comparison needs them.
        timeout_s: Most seconds for one comparison; one that takes longer says "different".
        max_cached_pairs: Comparisons remembered.

    Raises:
        UnknownName: There is no such kind.
        InvalidRequest: A pattern cannot be used.
    """
    return Reader(kind_of(kind), pool=pool, timeout_s=timeout_s, max_cached_pairs=max_cached_pairs)


class Reader:
    """Reads final answers of one kind; an `orchestrator.answers.AnswerReader`."""

    def __init__(self, kind: AnswerKind, *, pool: KillablePool | None, timeout_s: float, max_cached_pairs: int) -> None:
        self._kind = kind
        self._owned_pool = comparison_pool() if pool is None else None
        self._pool = pool or self._owned_pool
        self._timeout_s = timeout_s
        self._max_cached_pairs = max_cached_pairs
        self._cache: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._num_timeouts: OrderedDict[str, int] = OrderedDict()

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self._kind.name

    @property
    def instruction(self) -> str:
        """What to ask of a model so that its answer can be found."""
        return self._kind.instruction

    @property
    def cue(self) -> str:
        """Text that makes a model that has been cut off state its answer next."""
        return self._kind.cue

    def extract(self, text: str) -> str | None:
        """The final answer in ``text``, in time linear in its length; None if there is none."""
        found = self._kind.extract(text)
        return found.encode("utf-8", "replace").decode() if found else None

    def key(self, answer: str) -> str | None:
        """A canonical form, when the answer is plain: equal keys mean equal answers."""
        return self._kind.key(answer)

    async def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers mean the same; symmetric. False when that cannot be decided in time."""
        if left == right:
            return True
        keys = self.key(left), self.key(right)
        if keys[0] is not None and keys[1] is not None:
            return keys[0] == keys[1]
        if any(key is not None and not key.startswith("n:") for key in keys):
            return False  # a word or a choice is no expression
        if cleaned(left).replace(" ", "") == cleaned(right).replace(" ", ""):
            return True
        left, right = sorted((unwrapped(left), unwrapped(right)))
        if not self._kind.is_mathematical or max(len(left), len(right)) > _MAX_COMPARED_CHARS:
            return False
        if (known := self._cache.get((left, right))) is not None:
            self._cache.move_to_end((left, right))
            return known
        return await self._compared(left, right)

    async def aclose(self) -> None:
        """Ends its own workers; safe to call twice."""
        if self._kind.aclose is not None:
            await self._kind.aclose()
        if self._owned_pool is not None:
            await self._owned_pool.aclose()

    async def _compared(self, left: str, right: str) -> bool:
        if max(self._num_timeouts.get(answer, 0) for answer in (left, right)) >= _MAX_TIMEOUTS:
            return False
        assert self._pool is not None
        is_same = False
        try:
            is_same = await self._pool.run(comparison.same_value, left, right, timeout_s=self._timeout_s)
        except TimeoutError:
            _LOG.info("comparison of two answers took too long", extra={"timeout_s": self._timeout_s})
            for answer in (left, right):
                self._num_timeouts[answer] = self._num_timeouts.get(answer, 0) + 1
            while len(self._num_timeouts) > self._max_cached_pairs:
                self._num_timeouts.popitem(last=False)
        except (RemoteError, WorkerDied) as error:
            _LOG.info("comparison of two answers failed", extra={"error": error.code})
        self._cache[left, right] = is_same
        while len(self._cache) > self._max_cached_pairs:
            self._cache.popitem(last=False)
        return is_same
