"""Pins of trees: who holds them, what rides on calls, and when they end by themselves."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import Message, Prompt
from orchestrator.workers.ray.leases import AffinityCounters, TreeLeases
from orchestrator.workers.ray.routing import Release, Routing
from orchestrator.workers.ray.trees import TreeLedger

KEEP = Prompt((Message("user", "How many?"),))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> TreeLeases:
    return TreeLeases(60.0, clock=clock)


def read(leases: TreeLeases, routing: Routing, prompt_tokens: int = 100, cached_tokens: int = 0) -> None:
    with leases.call(routing) as call:
        call.read(prompt_tokens, cached_tokens)


def answered(ledger: TreeLedger, tree_id: str, replica: str) -> Routing:
    routing = ledger.routing(tree_id)
    routing.replica = replica
    ledger.answered(routing)
    return routing


def test_a_tree_expires_once_when_nothing_was_heard_of_it(leases: TreeLeases, clock: Clock):
    read(leases, Routing("a"))
    clock.now = 50
    read(leases, Routing("b"))
    clock.now = 61
    assert leases.expired() == ["a"]
    assert leases.expired() == []
    assert leases.counters.expired_trees == 1


def test_a_call_renews_the_lease_when_it_comes_and_when_it_ends(leases: TreeLeases, clock: Clock):
    with leases.call(Routing("a")):
        clock.now = 1000
        assert leases.expired() == [], "a tree with a call under way is heard of"
    clock.now = 1060
    assert leases.expired() == []
    clock.now = 1061
    assert leases.expired() == ["a"]


def test_a_tree_with_a_long_call_does_not_keep_others_from_expiring(leases: TreeLeases, clock: Clock):
    with leases.call(Routing("long")):
        clock.now = 1
        read(leases, Routing("idle"))
        clock.now = 100
        assert leases.expired() == ["idle"]


def test_a_call_that_fails_leaves_its_tree_leased_and_uncounted(leases: TreeLeases, clock: Clock):
    with pytest.raises(ZeroDivisionError), leases.call(Routing("a")):
        raise ZeroDivisionError
    assert leases.counters == AffinityCounters()
    clock.now = 61
    assert leases.expired() == ["a"]


def test_more_trees_than_are_remembered_expire_at_once(clock: Clock):
    leases = TreeLeases(60.0, clock=clock, max_trees=10)
    for number in range(25):
        read(leases, Routing(f"tree-{number}"))
    assert leases.expired() == [f"tree-{number}" for number in range(15)]
    assert len(leases) == 10


def test_a_released_tree_is_not_released_again(leases: TreeLeases, clock: Clock):
    read(leases, Routing("a"))
    leases.released("a")
    leases.released("never heard of")
    clock.now = 100
    assert leases.expired() == []


def test_calls_without_a_tree_are_neither_leased_nor_counted(leases: TreeLeases):
    read(leases, Routing())
    assert len(leases) == 0
    assert leases.counters == AffinityCounters()


def test_a_release_is_carried_out_once_although_several_calls_carry_it(leases: TreeLeases):
    release = Release("caller", 1, (KEEP,))
    with leases.call(Routing("a", release=release)) as call:
        assert call.release == release
    with leases.call(Routing("a", release=release)) as again:
        assert again.release is None
    with leases.call(Routing("a", release=Release("caller", 2, ()))) as later:
        assert later.release is not None
    with leases.call(Routing("a", release=release)) as late:
        assert late.release is None, "a release that comes after a later one would unpin what that one kept"
    with leases.call(Routing("a", release=Release("another caller", 1, ()))) as other:
        assert other.release is not None


def test_what_the_cache_had_is_counted(leases: TreeLeases):
    read(leases, Routing("a"), 100, 0)
    read(leases, Routing("a", is_known=True), 120, 90)
    read(leases, Routing("a", is_known=True), 130, 0)
    read(leases, Routing("b", is_known=True), 50, 10)
    assert leases.counters == AffinityCounters(
        tree_calls=4, known_calls=2, missed_calls=1, moved_calls=1, tree_prompt_tokens=400, tree_cached_tokens=100
    )
    assert leases.counters.describe() == (
        "4 calls of trees, 25% of their prompt tokens cached; "
        "1 calls came from other replicas, 1 found their tree's prefix gone"
    )


def test_calls_at_once_of_a_new_tree_miss_nothing(leases: TreeLeases):
    with leases.call(Routing("a")) as one, leases.call(Routing("a")) as other:
        one.read(100, 0)
        other.read(100, 0)
    assert leases.counters.known_calls == leases.counters.missed_calls == leases.counters.moved_calls == 0


def test_a_tree_is_known_from_when_it_was_read_and_not_only_when_that_call_has_ended(leases: TreeLeases):
    with leases.call(Routing("a")) as first:
        first.read(100, 0)
        read(leases, Routing("a", is_known=True), 100, 90)
    assert (leases.counters.known_calls, leases.counters.moved_calls) == (1, 0)


@given(st.lists(st.integers(0, 10**12), min_size=9, max_size=9))
def test_counters_survive_json_and_add_up(values):
    counters = AffinityCounters(*values)
    assert AffinityCounters.from_json({**counters.to_json(), "of a later version": 1}) == counters
    assert (counters + counters).to_json() == {name: 2 * value for name, value in counters.to_json().items()}


def test_a_release_that_keeps_something_rides_on_the_next_call():
    ledger = TreeLedger()
    answered(ledger, "a", "x")
    assert ledger.release("a", [KEEP]) == []
    told = ledger.routing("a")
    assert told.release is not None
    assert told.release.keep == (KEEP,)
    told.replica = "x"
    ledger.answered(told)
    assert ledger.routing("a").release is None


def test_a_release_is_told_again_until_a_replica_has_answered():
    ledger = TreeLedger()
    answered(ledger, "a", "x")
    ledger.release("a", [KEEP])
    lost = ledger.routing("a")
    ledger.answered(lost)
    assert ledger.routing("a").release is lost.release


def test_a_later_release_is_not_taken_as_told_by_the_answer_to_an_earlier_one():
    ledger = TreeLedger()
    answered(ledger, "a", "x")
    ledger.release("a", [KEEP])
    earlier = ledger.routing("a")
    ledger.release("a", [KEEP, KEEP])
    earlier.replica = "x"
    ledger.answered(earlier)
    waiting = ledger.routing("a").release
    assert waiting is not None
    assert waiting.number == 2


def test_a_tree_that_is_done_is_released_at_every_replica_that_holds_it():
    ledger = TreeLedger()
    for replica in ("x", "y", "x"):
        answered(ledger, "a", replica)
    calls = ledger.release("a")
    assert sorted((call.only, call.tree_id, call.is_last) for call in calls) == [("x", "a", True), ("y", "a", True)]
    assert ledger.release("a") == []
    assert len(ledger) == 0


def test_a_tree_that_was_never_called_needs_no_release():
    ledger = TreeLedger()
    assert ledger.release("a") == ledger.release("a", [KEEP]) == []
    ledger.routing("b")
    assert ledger.release("b") == []


def test_calls_that_name_no_salt_have_that_of_their_tree():
    ledger = TreeLedger()
    generated = ledger.routing("a", salt="tenant")
    assert ledger.routing("a").key == generated.key
    assert ledger.routing("a", salt="other").key != generated.key
    assert ledger.routing("", salt="tenant").key is None


def test_a_tree_is_known_once_it_was_answered():
    ledger = TreeLedger()
    assert not ledger.routing("a").is_known
    answered(ledger, "a", "x")
    assert ledger.routing("a").is_known


def test_an_answer_after_the_release_changes_nothing():
    ledger = TreeLedger()
    late = ledger.routing("a")
    answered(ledger, "a", "x")
    ledger.release("a")
    late.replica = "y"
    ledger.answered(late)
    assert len(ledger) == 0


def test_the_ledger_forgets_the_trees_not_used_for_longest():
    ledger = TreeLedger(max_trees=10)
    for number in range(30):
        answered(ledger, f"tree-{number}", "x")
    assert len(ledger) == 10
    assert ledger.release("tree-0") == []
    assert [call.only for call in ledger.release("tree-29")] == ["x"]


def test_what_travels_can_be_pickled():
    routing = Routing("a", "salt", release=Release("caller", 1, (KEEP,)))
    assert pickle.loads(pickle.dumps(routing)) == routing
