"""The decode thread: admits tasks, computes one batch after another, and hands what comes of it to the event loop.

Everything here runs in one thread of its own, which others reach through its `Mailbox`. Whatever happens to one
request, the thread goes on; what it cannot go on from ends every request with `EngineFailed`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from orchestrator.errors import EngineFailed, TtcError
from orchestrator.workers.llama_cpp.admission import FairQueue, Slice, plan_batch, should_wait_for
from orchestrator.workers.llama_cpp.batch import Output, Runner, batch_of
from orchestrator.workers.llama_cpp.binding import FloatMatrix
from orchestrator.workers.llama_cpp.choosing import choose
from orchestrator.workers.llama_cpp.chores import Chores
from orchestrator.workers.llama_cpp.counters import Counters
from orchestrator.workers.llama_cpp.generation import GenerationJob, Writing
from orchestrator.workers.llama_cpp.mailbox import Mailbox
from orchestrator.workers.llama_cpp.outbox import dispatch
from orchestrator.workers.llama_cpp.pace import Pace
from orchestrator.workers.llama_cpp.prefix_cache import PrefixCache
from orchestrator.workers.llama_cpp.work import Job, Task

_logger = logging.getLogger(__name__)

_HEADROOM_TOKENS = 16
"""Cells kept for each live task when another is admitted, so that it is not thrown out again at once."""


class DecodeLoop:
    """Continuous batching over one context.

    Args:
        runner: The context; used by the thread only.
        cache: What is in it.
        model_name: For error messages.
        max_live: Most sequences computed at once.
        is_deterministic: One sequence at a time, nothing kept between requests, chunks of fixed size.
        shares_prefixes: Requests start from what others have left in the cache.
        on_exit: Called by the thread as the last thing it does.
    """

    def __init__(
        self,
        runner: Runner,
        cache: PrefixCache,
        *,
        model_name: str,
        max_live: int,
        is_deterministic: bool = False,
        shares_prefixes: bool = True,
        on_exit: Callable[[], None],
    ) -> None:
        self.runner = runner
        self.cache = cache
        self.counters = Counters()
        self.failure: str | None = None
        self.mailbox = Mailbox(self.closed_error)
        self.chores = Chores()
        self._model_name = model_name
        self._is_deterministic = is_deterministic
        self._shares_prefixes = shares_prefixes
        self._max_live = 1 if is_deterministic else max_live
        self._on_exit = on_exit
        self._is_closing = False
        self._queue = FairQueue(self._max_live)
        self._live: dict[Task, None] = {}
        self._fresh: dict[GenerationJob, list[Writing]] = {}
        self._news: dict[GenerationJob, None] = {}
        self._order = 0
        self._current: Job | None = None
        self._pace = Pace(runner.batch_tokens, is_fixed=is_deterministic)
        self._thread = threading.Thread(target=self._run, name=f"llama_cpp-{model_name}", daemon=True)

    # Called from other threads.

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends all work and the thread; blocks until it is gone."""
        self._is_closing = True
        self.mailbox.wake()
        if self._thread.is_alive():
            self._thread.join()

    def closed_error(self) -> EngineFailed:
        """Why nothing more can be asked of it."""
        reason = self.failure or "it was closed"
        return EngineFailed(f"model {self._model_name!r} is not running: {reason}", model=self._model_name)

    @property
    def is_running(self) -> bool:
        """Whether requests are served."""
        return not self._is_closing and self.failure is None and self._thread.is_alive()

    # Called in the thread.

    def add(self, job: Job) -> None:
        """Takes in a new request."""
        self.counters.requests += 1
        if not self._shares_prefixes:
            job.share_nothing()
        self._queue.add(job)
        self._await_turns(job.waiting)

    def count_read(self, num_tokens: int) -> None:
        """Takes note of tokens that a chore read."""
        self.counters.prompt_tokens += num_tokens

    def cancel(self, job: Job, *, detail: str | None = None) -> None:
        """Ends a request; its live samples are finished with exact counts."""
        if job in self._queue.jobs:
            self._take_off(job)
            job.cancel(detail)
            self._retire(job)

    def abandon(self, job: Job) -> None:
        """Ends a request nobody listens to any more."""
        if job in self._queue.jobs:
            job.fail(EngineFailed("the reader went away", model=self._model_name))
            self._retire(job)

    def news(self, job: GenerationJob) -> None:
        """Takes note that a job has events to deliver."""
        self._news[job] = None

    def peak_cells(self, owner: object) -> int:
        """Most cells that a tree, or a job without one, has held so far."""
        return self.cache.holdings.of(owner).peak_cells

    def check_integrity(self) -> None:
        """Compares what is live with the cache's books, and those with the context.

        Raises:
            AssertionError: They disagree.
        """
        self.cache.check_integrity()
        leases = [task.lease for task in self._live]
        if None in leases or len(leases) != self.cache.num_leases:
            raise AssertionError(f"{self.cache.num_leases} sequences are leased for {len(leases)} live tasks")
        if any(task not in task.job.live for task in self._live):
            raise AssertionError("a live task is not known to its job")
        if self.cache.num_wanted > sum(len(job.waiting) for job in self._queue.jobs):
            raise AssertionError("more prefixes are wanted than tasks are waiting")

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self.mailbox.empty()
                has_worked = self._step()
                self._deliver()
                if not has_worked and not self._is_closing:
                    self.mailbox.wait(self._queue.seconds_to_deadline(time.monotonic()))
        except Exception as error:  # a bug here must end requests, not leave them waiting
            _logger.exception("the decode thread failed")
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._is_closing = True
            self._end_all()

    def _end_all(self) -> None:
        self.mailbox.seal()
        error = self.closed_error()
        self.mailbox.empty()
        for job in list(self._queue.jobs):
            job.fail(error)
        self.chores.fail(error)
        self._deliver()
        self._on_exit()

    def _step(self) -> bool:
        """One batch, and a piece of other work; False if there was nothing to do."""
        for job in self._queue.overdue(time.monotonic()):
            self.cancel(job, detail="deadline")
        self._admit()
        self.cache.trim_idle()
        has_worked = self.chores.advance() or bool(self._fresh)
        self._write_first_tokens()
        runnable = [task for task in self._live if not task.is_held]
        if runnable:
            slices = self._make_room(plan_batch(runnable, pace=self._pace, max_outputs=self.runner.max_outputs))
            if slices:
                self._compute(slices)
                has_worked = True
        waiting = sum(len(job.waiting) for job in self._queue.jobs)
        if not waiting:  # before readers learn of it, so that they see it done
            self.cache.trim_idle()
        now = time.monotonic()
        for job in self._queue.jobs:
            job.flush(now)
        self.counters.live_sequences, self.counters.waiting_sequences = len(self._live), waiting
        return has_worked

    # Admission.

    def _await_turns(self, tasks: Iterable[Task]) -> None:
        """Tasks begin to wait; what the cache has of them is protected."""
        for task in tasks:
            task.wanted = self.cache.want(task.tokens, salt=task.job.salt)

    def _end_waiting(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if task.wanted is not None:
                self.cache.unwant(task.wanted)
                task.wanted = None

    def _admit(self) -> None:
        while len(self._live) < self._max_live:
            for job in self._candidates():
                task = job.waiting[0]
                num_cached = self.cache.match(task.tokens[: task.cache_limit], salt=job.salt)
                if not should_wait_for(task, self._live, num_cached):
                    break
            else:
                return
            if not self._start(task):
                return

    def _candidates(self) -> list[Job]:
        if not self._is_deterministic:
            return self._queue.ordered()
        if self._current not in self._queue.jobs:
            ordered = self._queue.ordered()
            self._current = ordered[0] if ordered else None
            if self._current is not None:
                self.cache.clear()
        return [self._current] if self._current and self._current.waiting else []

    def _start(self, task: Task) -> bool:
        job = task.job
        lease = self.cache.acquire(task.tokens, limit=task.cache_limit, owner=job.owner, salt=job.salt)
        if lease is None:
            return False
        task.lease = lease
        needed = task.num_pending + min(task.tokens_ahead, _HEADROOM_TOKENS)
        reserved = sum(other.num_pending + min(other.tokens_ahead, _HEADROOM_TOKENS) for other in self._live)
        if self._live and not self.cache.could_hold(needed + reserved):
            task.lease = None
            self.cache.close(lease)
            return False
        job.waiting.popleft()
        self._end_waiting((task,))
        job.live.add(task)
        self._live[task] = None
        self._order += 1
        task.order = self._order
        self._queue.served(job)
        job.admitted(len(lease.tokens))
        if isinstance(task, Writing) and not task.num_pending:
            self._fresh.setdefault(task.writer, []).append(task)
        return True

    def _stop(self, task: Task) -> None:
        """Takes a task off; its tokens stay cached, except in deterministic mode."""
        assert task.lease is not None
        task.num_read = max(task.num_read, len(task.lease.tokens))
        is_dropped = self._is_deterministic and isinstance(task, Writing)
        self.cache.close(task.lease, keep=not is_dropped, is_over=task.is_over)
        task.lease = None
        del self._live[task]
        task.job.live.remove(task)

    def _make_room(self, slices: list[Slice]) -> list[Slice]:
        """Evicts, and if that is not enough takes the youngest tasks off, until the batch fits."""
        while not self.cache.reserve(sum(part.num_tokens for part in slices)):
            victim = max(self._live, key=lambda task: (task.is_held, task.order))
            assert len(self._live) > 1, "one sequence alone always fits"
            self._stop(victim)
            victim.job.waiting.appendleft(victim)
            self._await_turns((victim,))
            self.counters.preemptions += 1
            slices = [part for part in slices if part.task is not victim]
        return slices

    def _take_off(self, job: Job) -> None:
        for task in list(job.live):
            self._stop(task)

    def _retire(self, job: Job) -> None:
        self._take_off(job)
        if not job.is_read:
            self._count_reading(job)
        self._leave(job)

    def _leave(self, job: Job) -> None:
        self._queue.remove(job)
        self._end_waiting(job.waiting)
        job.waiting.clear()
        if job.owner is job:
            self.cache.release(job)

    # Computing.

    def _compute(self, slices: list[Slice]) -> None:
        batch = batch_of(slices)
        started = time.monotonic()
        code = self.runner.decode(batch.rows)
        if code:
            self._fail_batch(slices, code)
            return
        for part in slices:
            assert part.task.lease is not None
            computed = part.task.tokens[part.start : part.start + part.num_tokens]
            recomputed = self.cache.extend(part.task.lease, computed)
            part.task.recomputed_tokens += recomputed
            self.counters.recomputed_tokens += recomputed
        tokens_before = self.counters.output_tokens
        if batch.outputs:
            self._hand_out(batch.outputs, self.runner.logits(len(batch.outputs)))
        now = time.monotonic()
        self._pace.note(len(batch.rows), now - started)
        self.counters.step(now, now - started, self.counters.output_tokens - tokens_before)

    def _write_first_tokens(self) -> None:
        """For samples that begin where their prompt ends, whose logits are at hand."""
        fresh, self._fresh = self._fresh, {}
        for job, samples in fresh.items():
            assert job.first_logits is not None
            self._write(samples, np.broadcast_to(job.first_logits, (len(samples), len(job.first_logits))))

    def _hand_out(self, outputs: Sequence[Output], logits: FloatMatrix) -> None:
        """Gives every row of logits to the task that wanted it at that position."""
        samples: list[Writing] = []
        rows: list[int] = []
        for row, (task, position) in enumerate(outputs):
            if isinstance(task, Writing):
                samples.append(task)
                rows.append(row)
            elif task in self._live:
                self._hand(task, task.take_row, position, logits[row])
        if samples:
            self._write(samples, logits if len(samples) == len(outputs) else logits[rows])

    def _write(self, samples: Sequence[Writing], logits: FloatMatrix) -> None:
        """The next token of each sample."""
        for sample, choice in zip(samples, choose(samples, logits), strict=True):
            if sample in self._live and self._hand(sample, sample.take, choice):
                self.counters.output_tokens += 1

    def _hand(self, task: Task, take: Callable[..., bool], *computed: object) -> bool:
        """Lets a task take what was computed for it; False if it could not, which ends its job."""
        job = task.job
        try:
            is_done = take(*computed)
        except Exception as error:  # noqa: BLE001  a monitor may raise anything; it ends its own request only
            job.fail(error if isinstance(error, TtcError) else self._broken(error))
            self._retire(job)
            return False
        if is_done:
            self._end(task)
        return True

    def _end(self, task: Task) -> None:
        """Takes off a task that is complete."""
        job = task.job
        self._stop(task)
        if task is job.reading:
            job.is_read = True
            self._count_reading(job)
        job.ended(task)
        self._await_turns(job.waiting if task is job.reading else ())
        if not job.live and not job.waiting:
            self._leave(job)

    def _count_reading(self, job: Job) -> None:
        self.counters.prompt_tokens += job.reading.num_read
        self.counters.cached_prompt_tokens += job.cached_tokens

    def _broken(self, error: Exception) -> EngineFailed:
        return EngineFailed(
            f"a sample of model {self._model_name!r} failed: {type(error).__name__}: {error}",
            model=self._model_name,
            is_retryable=False,
        )

    def _fail_batch(self, slices: list[Slice], code: int) -> None:
        """Ends the requests of a batch that failed and takes back the cells it may have filled."""
        error = EngineFailed(
            f"model {self._model_name!r} could not compute a batch (llama_decode returned {code})",
            model=self._model_name,
        )
        for part in slices:
            assert part.task.lease is not None
            self.runner.remove(part.task.lease.sequence, part.start)
        for job in {part.task.job: None for part in slices}:
            job.fail(error)
            self._retire(job)

    def _deliver(self) -> None:
        """Hands all news to the event loops."""
        dispatch([job.parcel() for job in self._news])
        self._news.clear()
