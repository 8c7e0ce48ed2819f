"""One replica of a model: continuous batching in steps, prompts read in chunks beside decoding, KV memory, preemption.

A batch that stays the same is one event however many steps it runs (`StepTime.run`); it is cut short, at the end of a
step, when a call arrives that can join it or one of its sequences is cancelled.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable

from orchestrator.planning.simulation.kv_cache import KvCache
from orchestrator.planning.simulation.replica_parts import Reading, ReplicaCounts, ReplicaSpec, Run
from orchestrator.planning.simulation.timeline import Timeline
from orchestrator.planning.simulation.work import Call, Sequence

_WATERMARK = 0.01
"""Share of the KV memory that admission leaves free while others run, so that they can grow (vLLM's default)."""


class Replica:
    """See the module.

    Args:
        spec: What it is made of.
        timeline: Time.
        on_end: Called with each sequence when it has ended; may submit more.
        index: Its place in its pool.

    Attributes:
        counts: What it has done.
        cache: Its KV memory.
    """

    def __init__(
        self, spec: ReplicaSpec, timeline: Timeline, on_end: Callable[[Sequence], None], *, index: int = 0
    ) -> None:
        self.spec = spec
        self._on_end = on_end
        self.index = index
        self.counts = ReplicaCounts()
        self.cache = KvCache(spec.kv_tokens)
        self._timeline = timeline
        self._waiting: deque[Sequence] = deque()
        self._reading: deque[Reading] = deque()
        self._readings: dict[Call, Reading] = {}
        self._writing: dict[Sequence, None] = {}  # in order of admission
        self._ends: list[tuple[int, int, Sequence]] = []
        self._num_admitted = 0
        self._num_batched = 0  # sequences that write, or join when their prompt is read
        self._step = 0
        self._context = 0  # tokens that the next step reads
        self._cancelled: list[Sequence] = []
        self._fresh: list[Sequence] = []
        self._run: Run | None = None
        self._version = 0
        self._is_turning = False

    # asked

    def can_ever_hold(self, call: Call) -> bool:
        """Whether each of the call's sequences fits when it is alone."""
        longest = max((sequence.output_tokens for sequence in call.sequences), default=0)
        return call.num_prefix_tokens + longest + 2 <= self.spec.kv_tokens

    def submit(self, call: Call) -> None:
        """Takes all sequences of a call; what does not fit into the batch waits its turn."""
        was_empty = not self._waiting
        self._waiting.extend(call.sequences)
        if self._is_turning:
            return
        if self._run is None:
            self._turn()
        elif was_empty and self._num_batched < self.spec.max_sequences:
            self._cut()

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence of this replica with the step that is under way; at once if it waits."""
        if sequence.is_cancelled or sequence.has_ended:
            return
        sequence.is_cancelled = True
        if not sequence.admitted:
            sequence.has_ended = True
            sequence.end_s = self._timeline.now()
            self._on_end(sequence)
            return
        self._cancelled.append(sequence)
        if self._run is not None and not self._is_turning:
            self._cut()

    def forget(self, pieces: Iterable[int]) -> None:
        """A tree is over."""
        self.cache.forget(pieces)

    @property
    def num_waiting(self) -> int:
        """Sequences that are not in the batch."""
        return len(self._waiting)

    @property
    def num_batched(self) -> int:
        """Sequences that are."""
        return self._num_batched

    # turns

    def _turn(self) -> None:
        """Ends a run of steps, admits what can be, and begins the next one."""
        self._is_turning = True
        ended = self._finish_run() if self._run is not None else []
        for sequence in ended:
            self._on_end(sequence)  # may submit more to this replica
        self._admit()
        self._is_turning = False
        self._begin_run()

    def _finish_run(self) -> list[Sequence]:
        run, self._run = self._run, None
        assert run is not None
        now, steps = self._timeline.now(), run.steps
        self._count(run, now)
        self._step += steps
        self._context += steps * run.num_sequences
        self.cache.make_room(steps * run.num_sequences)
        self.cache.grow(steps * run.num_sequences)
        ended: list[Sequence] = []
        for sequence in self._cancelled:
            if not sequence.has_ended:
                ended.append(sequence)
                self._leave_anyhow(sequence)
        self._cancelled.clear()
        while self._ends and self._ends[0][0] <= self._step:
            ends_at, _, sequence = heapq.heappop(self._ends)
            if sequence in self._writing and sequence.ends_at_step == ends_at:
                sequence.num_written = sequence.output_tokens
                self._stop_writing(sequence, sequence.num_written)
                ended.append(sequence)
        for reading, tokens in run.parts:
            self._read(reading, tokens * steps, ended)
        for sequence in ended:
            self._end(sequence, now)
        return ended

    def _count(self, run: Run, now: float) -> None:
        counts, seconds = self.counts, now - run.start_s
        counts.busy_s += seconds
        counts.steps += run.steps
        counts.written_tokens += run.steps * run.num_sequences
        counts.read_tokens += run.steps * run.chunk
        counts.sequence_s += seconds * self._num_batched
        counts.kv_token_s += seconds * (self.cache.num_used + run.steps * run.num_sequences / 2)

    def _begin_run(self) -> None:
        num_sequences = len(self._writing)
        if not num_sequences and not self._reading:
            return
        spec, parts, chunk = self.spec, [], 0
        steps = 1 << 60
        if num_sequences:
            steps = self._room_for_steps(num_sequences)
            num_sequences = len(self._writing)  # some may have made room
            if self._cancelled:
                steps = 1
        pairs = 0.0
        if self._reading:
            budget = max(spec.max_step_tokens - num_sequences, 1)
            head = self._reading[0]
            if head.left > budget:
                whole = min(steps, head.left // budget)
                parts, steps, chunk = [(head, budget)], whole, budget
                pairs = budget * (head.position + budget * whole / 2)
            else:
                steps = 1
                for reading in self._reading:
                    tokens = min(reading.left, budget - chunk)
                    if tokens <= 0:
                        break
                    parts.append((reading, tokens))
                    chunk += tokens
                    pairs += tokens * (reading.position + tokens / 2)
        elif not num_sequences:
            return
        start = self._timeline.now()
        self._run = Run(start, steps, num_sequences, self._context, chunk, pairs, parts)
        self._note_first_tokens(start + self._seconds(self._run, 1))
        self._schedule(start + self._seconds(self._run, steps))

    def _note_first_tokens(self, time_s: float) -> None:
        """Of sequences whose prompts were here: they write their first token in the first step of the run."""
        for sequence in self._fresh:
            if sequence in self._writing and sequence.first_token_s < 0:
                sequence.first_token_s = time_s
        self._fresh.clear()

    def _schedule(self, end_s: float) -> None:
        self._version += 1
        version = self._version

        def turn() -> None:
            if version == self._version:
                self._turn()

        self._timeline.at(end_s, turn)

    def _cut(self) -> None:
        """Lets the run end with the step that is under way."""
        run = self._run
        assert run is not None
        if run.is_cut or run.steps == 1:
            return
        run.is_cut = True
        elapsed = self._timeline.now() - run.start_s
        least, most = 1, run.steps
        while least < most:
            middle = (least + most) // 2
            if self._seconds(run, middle) >= elapsed:
                most = middle
            else:
                least = middle + 1
        if least < run.steps:
            run.steps = least
            self._schedule(max(run.start_s + self._seconds(run, least), self._timeline.now()))

    def _seconds(self, run: Run, steps: int) -> float:
        return self.spec.step.run(steps, run.num_sequences, run.context, run.chunk, run.pairs)

    def _ends_in(self) -> int:
        """Steps until the next sequence is done."""
        ends = self._ends
        while ends:
            ends_at, _, sequence = ends[0]
            if sequence in self._writing and sequence.ends_at_step == ends_at:
                return ends_at - self._step
            heapq.heappop(ends)
        return 1

    # admission

    def _admit(self) -> None:
        waiting = self._waiting
        while waiting and self._num_batched < self.spec.max_sequences:
            sequence = waiting[0]
            if sequence.is_cancelled or sequence.has_ended or self._take(sequence):
                waiting.popleft()
            else:
                return

    def _take(self, sequence: Sequence) -> bool:
        """Admits a sequence if there is KV memory for it."""
        call, cache = sequence.call, self.cache
        own = sequence.num_written + 2
        watermark = int(_WATERMARK * cache.capacity) if self._num_batched else 0
        if call.num_active:
            if not cache.make_room(own + watermark):
                return False
            missing = 0
            cache.grow(own)
        else:
            claimed = cache.claim(call.prefix, own, spare=watermark)
            if claimed is None:
                return False
            missing = claimed
            if call.cached_tokens < 0:
                call.cached_tokens = call.num_prefix_tokens - missing
                self.counts.cached_tokens += call.cached_tokens
            else:
                self._recompute(sequence, missing)
        call.num_active += 1
        self._num_admitted += 1
        self._num_batched += 1
        sequence.admitted = self._num_admitted
        again = sequence.num_written
        reading = self._readings.get(call)
        if reading is not None and not again:
            reading.joining.append(sequence)
        elif missing or again or not sequence.output_tokens:
            self._recompute(sequence, again)
            self._queue_reading(call, max(missing + again, 1), sequence, shared=not again)
        else:
            cache.shrink(1)
            self._fresh.append(sequence)
            self._start_writing(sequence)
        return True

    def _recompute(self, sequence: Sequence, tokens: int) -> None:
        sequence.recomputed_tokens += tokens
        self.counts.recomputed_tokens += tokens

    def _queue_reading(self, call: Call, tokens: int, sequence: Sequence, *, shared: bool) -> None:
        position = max(call.num_prefix_tokens + sequence.num_written - tokens, 0)
        reading = Reading(call, tokens, position, [sequence])
        self._reading.append(reading)
        if shared:
            self._readings[call] = reading

    def _read(self, reading: Reading, tokens: int, ended: list[Sequence]) -> None:
        reading.left -= tokens
        reading.position += tokens
        if reading.left > 0 or not reading.joining:
            return
        self._drop_reading(reading)
        now = self._timeline.now()
        for sequence in reading.joining:
            if not sequence.output_tokens:  # only the prompt was to be read
                self._num_batched -= 1
                self.cache.shrink(2)
                ended.append(sequence)
                continue
            if sequence.first_token_s < 0:
                sequence.first_token_s = now
            sequence.num_written += 1  # reading the last token of a prompt gives the first one of the reply
            self.counts.written_tokens += 1
            if sequence.num_written >= sequence.output_tokens:
                self._num_batched -= 1
                self._leave_cache(sequence, sequence.num_written + 1)
                ended.append(sequence)
            else:
                self._start_writing(sequence)

    def _drop_reading(self, reading: Reading) -> None:
        self._reading.remove(reading)
        if self._readings.get(reading.call) is reading:
            del self._readings[reading.call]

    # batch

    def _start_writing(self, sequence: Sequence) -> None:
        sequence.ends_at_step = self._step + sequence.output_tokens - sequence.num_written
        self._writing[sequence] = None
        heapq.heappush(self._ends, (sequence.ends_at_step, sequence.admitted, sequence))
        self._context += self._read_by(sequence) + sequence.num_written

    def _stop_writing(self, sequence: Sequence, num_written: int) -> None:
        del self._writing[sequence]
        self._num_batched -= 1
        self._context -= num_written
        self._context -= self._read_by(sequence)
        self._leave_cache(sequence, num_written + 1)

    def _read_by(self, sequence: Sequence) -> int:
        """Tokens of the prefix that this sequence adds to what a step reads."""
        call = sequence.call
        if self.spec.shares_reads:
            others = any(other is not sequence and other in self._writing for other in call.sequences)
            return 0 if others else call.num_prefix_tokens
        return call.num_prefix_tokens

    def _leave_cache(self, sequence: Sequence, own: int) -> None:
        """Gives up what the sequence holds, or leaves it as a piece that others may continue."""
        if sequence.keep is not None and not sequence.is_cancelled and sequence.num_written >= sequence.output_tokens:
            self.cache.shrink(own - sequence.num_written)
            self.cache.keep(sequence.keep, sequence.num_written)
        else:
            self.cache.shrink(own)

    def _written_now(self, sequence: Sequence) -> int:
        return sequence.output_tokens - (sequence.ends_at_step - self._step)

    def _leave_anyhow(self, sequence: Sequence) -> None:
        """A cancelled sequence leaves, wherever it is."""
        if sequence in self._writing:
            sequence.num_written = self._written_now(sequence)
            self._stop_writing(sequence, sequence.num_written)
            return
        for reading in self._reading:
            if sequence in reading.joining:
                reading.joining.remove(sequence)
                self._num_batched -= 1
                self.cache.shrink(sequence.num_written + 2)
                if not reading.joining:
                    self._drop_reading(reading)
                return

    def _end(self, sequence: Sequence, now: float) -> None:
        sequence.has_ended = True
        sequence.end_s = now
        self._release(sequence.call)

    def _release(self, call: Call) -> None:
        call.num_active -= 1
        if not call.num_active:
            self.cache.unpin(call.prefix)

    # memory

    def _room_for_steps(self, num_sequences: int) -> int:
        """How many steps the batch can grow for, at least one; the newest make room if there is none."""
        cache = self.cache
        while True:
            room = cache.capacity - cache.num_used
            if room + cache.num_loose >= num_sequences:
                break
            self._preempt(next(reversed(self._writing)))
            num_sequences = len(self._writing)
            if not num_sequences:
                return 1 << 60
        return min((room + cache.num_loose) // num_sequences, self._ends_in())

    def _preempt(self, sequence: Sequence) -> None:
        """Gives up a sequence's KV; it is first in line, and what it wrote is read again with its prompt."""
        sequence.num_written = self._written_now(sequence)
        del self._writing[sequence]
        self._num_batched -= 1
        self._context -= sequence.num_written + self._read_by(sequence)
        self.cache.shrink(sequence.num_written + 1)
        sequence.admitted = 0
        self._waiting.appendleft(sequence)
        self.counts.preemptions += 1
        self._release(sequence.call)
