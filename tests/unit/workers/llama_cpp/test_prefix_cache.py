"""The radix tree against a memory that holds real cells, under random use."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from orchestrator.workers.llama_cpp.cells import Extent
from orchestrator.workers.llama_cpp.prefix_cache import Lease, PrefixCache
from orchestrator.workers.llama_cpp.radix import Node


class CellMemory:
    """Cells as llama.cpp keeps them: each holds one token at one position for a set of sequences."""

    def __init__(self, num_cells: int) -> None:
        self._num_cells = num_cells
        self._cells: list[tuple[int, int, set[int]]] = []  # position, token, sequences

    @property
    def used(self) -> int:
        return len(self._cells)

    def decode(self, sequence: int, tokens: Sequence[int]) -> None:
        start = self.extent(sequence).last + 1
        for offset, token in enumerate(tokens):
            self._cells.append((start + offset, token, {sequence}))
        assert self.used <= self._num_cells

    def read(self, sequence: int) -> list[int]:
        held = sorted((position, token) for position, token, owners in self._cells if sequence in owners)
        assert [position for position, _ in held] == list(range(len(held))), "positions have holes or doubles"
        return [token for _, token in held]

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        for position, _, owners in self._cells:
            if source in owners and start <= position < end:
                owners.add(target)

    def remove(self, sequence: int, start: int) -> None:
        self.remove_range(sequence, start, 1 << 30)

    def remove_range(self, sequence: int, start: int, end: int) -> None:
        for position, _, owners in self._cells:
            if start <= position < end:
                owners.discard(sequence)
        self._cells = [cell for cell in self._cells if cell[2]]

    def extent(self, sequence: int) -> Extent:
        held = [position for position, _, owners in self._cells if sequence in owners]
        return Extent(min(held), max(held)) if held else Extent(-1, -1)


TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
OWNERS = st.sampled_from(["a", "b", "c"])
SALTS = st.sampled_from(["", "tenant"])


class PrefixCacheMachine(RuleBasedStateMachine):
    """Sequences come and go; the books, the cells and what each sequence reads must always agree."""

    live = Bundle("live")
    wanted = Bundle("wanted")

    @initialize(num_cells=st.integers(12, 60), num_sequences=st.integers(1, 6), idle=st.none() | st.integers(0, 20))
    def open(self, num_cells: int, num_sequences: int, idle: int | None) -> None:
        self.memory = CellMemory(num_cells)
        self.cache = PrefixCache(self.memory, num_cells=num_cells, num_sequences=num_sequences, max_idle_cells=idle)
        self.idle = idle
        self.leases: dict[Lease, str] = {}
        self.num_sequences = num_sequences

    @rule(target=live, tokens=TOKENS, salt=SALTS, owner=OWNERS, is_whole=st.booleans())
    def acquire(self, tokens: list[int], salt: str, owner: str, is_whole: bool) -> Lease | None:
        limit = len(tokens) if is_whole else len(tokens) - 1
        matched = min(self.cache.match(tokens, salt=salt), limit)
        lease = self.cache.acquire(tokens, limit=limit, salt=salt, owner=owner)
        if lease is None:
            assert len(self.leases) == self.num_sequences, "refused although an id could be had"
            return None
        assert len(lease.tokens) == matched, "the longest cached prefix was not used"
        self.leases[lease] = salt
        return lease

    @rule(lease=live, tokens=TOKENS)
    def extend(self, lease: Lease | None, tokens: list[int]) -> None:
        if lease in self.leases and self.cache.reserve(len(tokens)):
            self.memory.decode(lease.sequence, tokens)
            self.cache.extend(lease, tokens)

    @rule(lease=live)
    def commit(self, lease: Lease | None) -> None:
        if lease in self.leases:
            self.cache.commit(lease)
            assert self.cache.match(lease.tokens, salt=self.leases[lease]) == len(lease.tokens)

    @rule(lease=consumes(live), keep=st.booleans())
    def close(self, lease: Lease | None, keep: bool) -> None:
        if lease in self.leases:
            salt = self.leases.pop(lease)
            self.cache.close(lease, keep=keep)
            if keep:
                assert self.cache.match(lease.tokens, salt=salt) == len(lease.tokens)

    @rule(target=wanted, tokens=TOKENS, salt=SALTS)
    def want(self, tokens: list[int], salt: str) -> Node:
        return self.cache.want(tokens, salt=salt)

    @rule(node=consumes(wanted))
    def unwant(self, node: Node) -> None:
        self.cache.unwant(node)

    @rule()
    def trim_idle(self) -> None:
        self.cache.trim_idle()
        assert self.idle is None or self.cache.idle_cells() <= self.idle

    @rule(owner=OWNERS, keep=st.lists(TOKENS, max_size=2))
    def release(self, owner: str, keep: list[list[int]]) -> None:
        self.cache.release(owner, keep=keep)

    @rule(num_cells=st.integers(1, 60))
    def reserve(self, num_cells: int) -> None:
        could_hold = self.cache.could_hold(num_cells)
        assert self.cache.reserve(num_cells) == could_hold

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check_integrity()
        assert self.memory.used == self.cache.used_cells
        for lease in self.leases:
            assert self.memory.read(lease.sequence) == lease.tokens


TestPrefixCache = PrefixCacheMachine.TestCase
TestPrefixCache.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Books:
    """A cache and its memory, used the way the decode loop uses them."""

    def __init__(self, *, num_cells: int = 100, num_sequences: int = 8, max_idle_cells: int | None = None) -> None:
        self.num_recomputed = 0
        self.memory = CellMemory(num_cells)
        self.cache = PrefixCache(
            self.memory, num_cells=num_cells, num_sequences=num_sequences, max_idle_cells=max_idle_cells
        )

    def start(self, tokens: Sequence[int], *, owner: object = None, salt: str = "") -> Lease:
        lease = self.cache.acquire(tokens, limit=len(tokens), owner=owner or object(), salt=salt)
        assert lease is not None
        fresh = tokens[len(lease.tokens) :]
        assert self.cache.reserve(len(fresh))
        self.memory.decode(lease.sequence, fresh)
        self.num_recomputed += self.cache.extend(lease, fresh)
        return lease

    def run(self, tokens: Sequence[int], *, owner: object = None, salt: str = "", is_over: bool = False) -> int:
        """A request from its beginning to its end; one without an owner is its own. Returns the cells it had."""
        lease = self.start(tokens, owner=owner, salt=salt)
        self.cache.close(lease, is_over=is_over)
        cells = self.cache.holdings.of(lease.owner).cells
        if owner is None:
            self.cache.release(lease.owner)
        self.cache.trim_idle()
        self.cache.check_integrity()
        return cells


def test_samples_of_one_prompt_share_its_cells() -> None:
    books = Books()
    prompt = [1, 2, 3, 4, 5]
    books.run(prompt)
    for sample in range(4):
        books.run([*prompt, 10 + sample, 20])
    assert books.cache.used_cells == books.memory.used == 5 + 4 * 2


def test_two_samples_with_the_same_text_end_up_in_the_same_cells() -> None:
    books = Books()
    first, second = books.start([1, 2, 3]), books.start([1, 2, 3])
    assert books.memory.used == 6
    books.cache.close(first)
    books.cache.close(second)
    books.cache.check_integrity()
    assert books.memory.used == books.cache.used_cells == 3


def test_the_least_recently_used_prefix_goes_first() -> None:
    books = Books(num_cells=9)
    books.run([1, 1, 1])
    books.run([2, 2, 2])
    books.run([3, 3, 3])
    books.run([1, 1, 1])
    books.run([4, 4, 4])
    assert books.cache.match([2, 2, 2]) == 0
    assert books.cache.match([1, 1, 1]) == books.cache.match([3, 3, 3]) == 3


def test_prefixes_of_a_live_tree_outlast_all_others_until_it_is_released() -> None:
    books = Books(num_cells=9)
    books.run([1, 1, 1], owner="tree")
    books.run([2, 2, 2])
    books.run([3, 3, 3])
    books.run([4, 4, 4])
    assert books.cache.match([1, 1, 1]) == 3
    books.cache.release("tree")
    books.run([5, 5, 5])
    assert books.cache.match([1, 1, 1]) == 0
    assert books.cache.holdings.owners == frozenset()


def test_release_keeps_the_pins_on_the_way_to_what_is_kept() -> None:
    books = Books(num_cells=9)
    books.run([1, 1, 1, 7], owner="tree")
    books.run([1, 1, 1, 8], owner="tree")
    books.cache.release("tree", keep=[[1, 1, 1, 8]])
    books.run([2, 2, 2, 2])
    books.run([3, 3, 3, 3])
    assert books.cache.match([1, 1, 1, 8]) == 4
    assert books.cache.match([1, 1, 1, 7]) == 3


def test_what_no_tree_uses_is_kept_up_to_a_limit_only() -> None:
    books = Books(max_idle_cells=4)
    books.run([1, 1, 1], owner="tree")
    books.run([2, 2, 2])
    books.run([3, 3, 3])
    assert [books.cache.match([token] * 3) for token in (1, 2, 3)] == [3, 0, 3]
    books.cache.release("tree")
    books.cache.trim_idle()
    books.cache.check_integrity()
    assert books.cache.idle_cells() == 3


def test_when_everything_is_pinned_the_oldest_pinned_prefix_makes_room() -> None:
    books = Books(num_cells=6)
    books.run([1, 1, 1], owner="a")
    books.run([2, 2, 2], owner="b")
    books.run([3, 3, 3], owner="c")
    assert books.cache.match([1, 1, 1]) == 0
    assert books.cache.match([3, 3, 3]) == 3


def test_of_pinned_prefixes_those_that_somebody_waits_for_go_last() -> None:
    books = Books(num_cells=9)
    books.run([1, 1, 1], owner="tree")
    mark = books.cache.want([1, 1, 1, 5])
    books.run([2, 2, 2], owner="tree")
    books.run([3, 3, 3], owner="tree")
    books.run([4, 4, 4], owner="tree")
    assert [books.cache.match([token] * 3) for token in (1, 2, 3)] == [3, 0, 3]
    books.cache.unwant(mark)
    books.run([5, 5, 5], owner="tree")
    assert books.cache.match([1, 1, 1]) == 0


def test_a_wanted_prefix_that_had_to_go_is_wanted_no_more() -> None:
    books = Books(num_cells=3)
    books.run([1, 1, 1], owner="tree")
    mark = books.cache.want([1, 1, 1])
    books.run([2, 2, 2], owner="tree")
    books.cache.unwant(mark)
    books.cache.check_integrity()


def test_salts_never_share() -> None:
    books = Books()
    books.run([1, 2, 3], salt="tenant")
    assert books.cache.match([1, 2, 3]) == 0
    assert books.cache.match([1, 2, 3], salt="tenant") == 3


def test_tokens_that_a_tree_lost_are_counted_when_they_are_read_again() -> None:
    books = Books(num_cells=6)
    books.run([1, 2, 3], owner="tree")
    books.run([4, 5, 6], owner="tree")
    assert books.num_recomputed == 0
    books.run([7, 8, 9], owner="tree")
    assert len(books.cache.holdings.of("tree").lost) == 3
    books.run([1, 2, 3, 4], owner="tree")
    assert books.num_recomputed == 3
    assert len(books.cache.holdings.of("tree").lost) == 6, "what was read again is lost no more"
    books.run([1, 2, 3, 4], owner="tree")
    assert books.num_recomputed == 3


def test_every_sequence_that_reads_lost_tokens_counts_them() -> None:
    books = Books(num_cells=12)
    books.run([1, 2, 3], owner="tree")
    for token in (4, 5, 6, 7):
        books.run([token] * 3, owner="tree")
    first, second = books.start([1, 2, 3], owner="tree"), books.start([1, 2, 3], owner="tree")
    assert books.num_recomputed == 6
    books.cache.close(first)
    books.cache.close(second)
    books.cache.check_integrity()


def test_tokens_that_another_tree_lost_or_nobody_had_pinned_are_no_recomputation() -> None:
    books = Books(num_cells=6)
    books.run([1, 2, 3], owner="other")
    books.run([4, 5, 6])
    for token in (7, 8, 9):
        books.run([token] * 3)
    books.run([1, 2, 3], owner="tree")
    books.run([4, 5, 6], owner="tree")
    assert books.num_recomputed == 0
    assert books.cache.evicted_tokens > 6


def test_new_tokens_that_happen_to_be_lost_ones_are_no_recomputation() -> None:
    books = Books(num_cells=6)
    books.run([1, 2, 3], owner="tree")
    books.run([4, 5, 6], owner="tree")
    books.run([7, 8, 9], owner="tree")
    lease = books.cache.acquire([1, 2], limit=2, owner="tree")
    assert lease is not None
    assert books.cache.reserve(3)
    books.memory.decode(lease.sequence, [1, 2, 3])
    assert books.cache.extend(lease, [1, 2]) == 2
    assert books.cache.extend(lease, [3]) == 0, "a sample wrote it anew"
    books.cache.close(lease)


def test_each_owner_has_its_own_and_what_it_shares() -> None:
    books = Books()
    assert books.run([1, 2, 3, 4], owner="a") == 4
    assert books.run([1, 2, 3, 5, 6], owner="b") == 5
    assert books.run([1, 2, 3, 7], owner="a") == 5
    holdings = books.cache.holdings
    books.cache.release("a", keep=[[1, 2, 3, 7]])
    assert (holdings.of("a").cells, holdings.of("a").peak_cells) == (4, 5)
    books.cache.release("a")
    assert (holdings.of("a").cells, holdings.of("b").cells) == (0, 5)
    assert holdings.owners == {"b"}


def test_what_a_live_sequence_leaves_after_its_owner_was_released_is_pinned_to_nobody() -> None:
    books = Books(max_idle_cells=2)
    lease = books.start([1, 2, 3], owner="tree")
    books.cache.release("tree")
    books.cache.close(lease)
    assert books.cache.holdings.owners == frozenset()
    books.cache.trim_idle()
    assert books.cache.used_cells == 0
    books.cache.check_integrity()


def test_a_finished_answer_is_not_pinned_but_the_prompt_it_shares_is() -> None:
    books = Books(max_idle_cells=0)
    books.run([1, 2, 3], owner="tree")
    books.run([1, 2, 3, 4, 5], owner="tree", is_over=True)
    assert books.cache.match([1, 2, 3, 4, 5]) == 3
    books.run([1, 2, 3], owner="tree", is_over=True)
    assert books.cache.match([1, 2, 3]) == 3


def test_of_many_owners_that_never_release_the_oldest_are_forgotten() -> None:
    books = Books(num_cells=4)
    for number in range(1, 1500):
        books.cache.close(books.start([1, 2, 3, number], owner=number))
    books.cache.check_integrity()
    assert len(books.cache.holdings.owners) == 1000
    assert [books.cache.holdings.of(number).cells for number in (1, 1499)] == [0, 4]


def test_roots_of_salts_that_hold_nothing_are_forgotten() -> None:
    books = Books(num_cells=4)
    for number in range(300):
        books.run([1, 2], salt=f"tenant {number}")
    assert len(books.cache._roots) <= 65


def test_every_id_leased_is_a_refusal_and_closing_one_is_enough_to_go_on() -> None:
    books = Books(num_sequences=2)
    first, second = books.start([1]), books.start([2])
    assert books.cache.acquire([3], limit=1, owner="") is None
    books.cache.close(first)
    books.run([3])
    books.cache.close(second, keep=False)
    books.cache.check_integrity()
    assert books.cache.num_leases == 0


def test_an_id_is_had_by_evicting_even_below_the_prefix_that_is_wanted() -> None:
    books = Books(num_sequences=1)
    books.run([1, 2, 3, 4, 5])
    books.run([1, 2, 9])
    assert books.cache.match([1, 2, 9]) == 3
    assert books.cache.match([1, 2, 3]) == 2


def test_integrity_check_notices_cells_the_books_do_not_know() -> None:
    books = Books()
    lease = books.start([1, 2])
    books.memory.decode(lease.sequence, [3])
    with pytest.raises(AssertionError, match="should hold"):
        books.cache.check_integrity()
