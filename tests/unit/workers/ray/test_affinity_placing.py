"""Where calls of trees go: by hashing, by load, and back."""

import json
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.workers.ray.placing import AffinitySettings, Reason, TreePlacing
from orchestrator.workers.ray.rendezvous import first, ranked
from orchestrator.workers.ray.routing import tree_key

names = st.text(max_size=12) | st.sampled_from(["", "\ud800", "a\0b", "x" * 10_000])
replica_names = st.text(min_size=1, max_size=8)
settings = st.builds(
    AffinitySettings,
    abs_threshold=st.integers(0, 20),
    new_threshold=st.integers(0, 20),
    rel_threshold=st.floats(1.0, 4.0),
    patience_s=st.floats(0.0, 2.0),
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def placing(given: AffinitySettings | None = None, *, clock: Clock | None = None, seed: int = 0) -> TreePlacing:
    return TreePlacing(given or AffinitySettings(), clock=clock or Clock(), rng=random.Random(seed))


def idle(*replicas: str) -> dict[str, int | None]:
    return dict.fromkeys(replicas, 0)


def go(places: TreePlacing, key: bytes, loads: dict[str, int | None], **more: float) -> str:
    """The one replica for a tree's call."""
    (replica,), _ = places.choose(key, loads, **more)
    return replica


@given(names, names, names, names)
def test_two_tenants_or_trees_share_a_key_only_if_both_are_equal(salt, tree, other_salt, other_tree):
    is_same = (salt, tree) == (other_salt, other_tree)
    assert (tree_key(tree, salt=salt) == tree_key(other_tree, salt=other_salt)) == is_same


def test_text_cannot_be_moved_between_salt_and_tree():
    assert tree_key("bc", salt="a") != tree_key("c", salt="ab")
    assert tree_key("", salt="ab") != tree_key("ab", salt="")


def test_other_processes_find_the_same_replicas():
    replicas = [f"replica-{number}" for number in range(7)]
    program = (
        "import json, sys\n"
        "from orchestrator.workers.ray.rendezvous import ranked\n"
        "from orchestrator.workers.ray.routing import tree_key\n"
        "names = json.loads(sys.argv[1])\n"
        "print(json.dumps([ranked(tree_key(f'job-{n}', salt='t'), set(names)) for n in range(50)]))\n"
    )
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-P", "-c", program, json.dumps(replicas)],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                timeout=60,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    here = [ranked(tree_key(f"job-{number}", salt="t"), replicas) for number in range(50)]
    assert found == [here, here]


@given(st.sets(replica_names, min_size=1, max_size=8), st.lists(names, max_size=30), st.randoms(use_true_random=False))
def test_a_replica_that_goes_moves_only_its_own_trees(replicas, trees, rng):
    gone = rng.choice(sorted(replicas))
    left = replicas - {gone}
    for tree in trees:
        before = ranked(tree_key(tree), replicas)
        after = ranked(tree_key(tree), left)
        assert after == [replica for replica in before if replica != gone]


@given(st.sets(replica_names, min_size=1, max_size=8), replica_names, st.lists(names, max_size=30))
def test_a_replica_that_comes_only_takes_trees_to_itself(replicas, new, trees):
    for tree in trees:
        before, after = first(tree_key(tree), replicas), first(tree_key(tree), replicas | {new})
        assert after in {before, new}


def test_thousands_of_trees_are_spread_evenly():
    """Each replica's number of trees is binomial: a deviation of 4.5 standard deviations of any has p < 1e-4."""
    replicas, num_trees = [f"r{number}" for number in range(10)], 20_000
    counts = Counter(first(tree_key(f"job-{number}", salt="tenant"), replicas) for number in range(num_trees))
    share = 1 / len(replicas)
    deviation = math.sqrt(num_trees * share * (1 - share))
    assert all(abs(counts[replica] - num_trees * share) < 4.5 * deviation for replica in replicas)


def test_trees_of_a_replica_that_goes_are_shared_by_all_others():
    """Binomial again, over the trees of the one that goes; 4.5 standard deviations."""
    replicas = [f"r{number}" for number in range(6)]
    keys = [tree_key(f"job-{number}") for number in range(12_000)]
    orphans = [key for key in keys if first(key, replicas) == "r0"]
    counts = Counter(first(key, replicas[1:]) for key in orphans)
    share = 1 / 5
    deviation = math.sqrt(len(orphans) * share * (1 - share))
    assert set(counts) == set(replicas[1:])
    assert all(abs(count - len(orphans) * share) < 4.5 * deviation for count in counts.values())


def test_a_tree_stays_on_one_replica_while_load_is_balanced():
    places = placing()
    homes = {go(places, tree_key("a"), {"x": load, "y": 4, "z": 8}) for load in (0, 3, 8)}
    assert len(homes) == 1


def test_a_replica_that_comes_takes_no_tree_that_lives():
    places = placing()
    keys = [tree_key(f"job-{number}") for number in range(200)]
    before = [go(places, key, idle("x", "y")) for key in keys]
    after = [go(places, key, idle("x", "y", "z")) for key in keys]
    assert after == before
    assert any(first(key, ("x", "y", "z")) == "z" for key in keys), "and without memory it would have taken some"


def test_a_tree_moves_off_a_replica_that_has_far_more_to_do_and_stays_where_it_went():
    places = placing(AffinitySettings(abs_threshold=8, rel_threshold=1.5))
    key = tree_key("a")
    home = go(places, key, idle("x", "y", "z"))
    other, least = sorted({"x", "y", "z"} - {home})
    choice = places.choose(key, {home: 9, other: 3, least: 0})
    assert choice == ((least,), Reason.MOVED)
    assert places.choose(key, idle("x", "y", "z")) == ((least,), Reason.HELD)


@pytest.mark.parametrize(
    ("load", "least"),
    [pytest.param(8, 0, id="not more than the absolute threshold"), pytest.param(30, 20, id="not 1.5 times as many")],
)
def test_a_tree_does_not_move_unless_both_thresholds_are_passed(load, least):
    places = placing(AffinitySettings(abs_threshold=8, rel_threshold=1.5))
    key = tree_key("a")
    home = go(places, key, idle("x", "y"))
    (other,) = {"x", "y"} - {home}
    assert places.choose(key, {home: load, other: least}).replicas == (home,)


def test_a_new_tree_has_nothing_to_lose_and_takes_the_least_loaded_replica():
    places = placing(AffinitySettings(abs_threshold=8, new_threshold=2))
    keys = [tree_key(f"job-{number}") for number in range(20)]
    for key in keys:
        home = first(key, ("x", "y"))
        (other,) = {"x", "y"} - {home}
        assert places.choose(key, {home: 3, other: 0}) == ((other,), Reason.MOVED)
        assert places.choose(key, {home: 0, other: 8}) == ((other,), Reason.HELD), "and stays there as others do"


def test_a_new_tree_is_where_hashing_says_when_load_is_nearly_even():
    places = placing(AffinitySettings(new_threshold=2))
    for number in range(20):
        key = tree_key(f"job-{number}")
        home = first(key, ("x", "y"))
        (other,) = {"x", "y"} - {home}
        assert places.choose(key, {home: 2, other: 0}) == ((home,), Reason.HASHED)


def test_calls_at_once_of_a_new_tree_stay_together():
    places = placing(AffinitySettings(abs_threshold=8, new_threshold=2))
    loads = idle("x", "y", "z")
    for _ in range(9):
        loads[go(places, tree_key("a"), loads)] += 1
    assert sorted(loads.values()) == [0, 0, 9]


def test_load_elsewhere_moves_no_tree_off_a_replica_that_has_little_to_do():
    places = placing()
    key = tree_key("a")
    home = go(places, key, idle("x", "y", "z"))
    busy, free = sorted({"x", "y", "z"} - {home})
    assert places.choose(key, {home: 5, busy: 500, free: 0}) == ((home,), Reason.HELD)


def test_a_hot_tree_goes_to_a_replica_that_holds_it_before_a_new_one():
    places = placing(AffinitySettings(abs_threshold=8, rel_threshold=1.5))
    key = tree_key("hot")
    first_home = go(places, key, idle("x", "y", "z"))
    second, third = sorted({"x", "y", "z"} - {first_home})
    assert go(places, key, {first_home: 9, second: 0, third: 1}) == second
    assert go(places, key, {first_home: 4, second: 10, third: 0}) == first_home


def test_when_the_replica_a_tree_was_moved_to_goes_the_tree_finds_back():
    places = placing()
    key = tree_key("a")
    home = go(places, key, idle("x", "y", "z"))
    (spill, *_) = sorted({"x", "y", "z"} - {home})
    assert go(places, key, {**idle("x", "y", "z"), home: 50, spill: 0}) != home
    moved_to = places.holders(key)[-1]
    left = sorted({"x", "y", "z"} - {moved_to})
    assert places.choose(key, idle(*left)) == ((home,), Reason.RETURNED)


def test_a_tree_goes_back_to_where_hashing_says_when_nothing_was_heard_of_it():
    clock = Clock()
    places = placing(AffinitySettings(lease_s=60), clock=clock)
    key = tree_key("a")
    home = go(places, key, idle("x", "y"))
    (other,) = {"x", "y"} - {home}
    go(places, key, {home: 99, other: 0})
    clock.now += 60
    assert places.choose(key, idle("x", "y")) == ((other,), Reason.HELD)
    clock.now += 60.1
    assert places.choose(key, idle("x", "y")) == ((home,), Reason.HASHED)


def test_a_tree_that_is_done_is_forgotten():
    places = placing()
    go(places, tree_key("a"), idle("x"))
    places.forget(tree_key("a"))
    places.forget(tree_key("never heard of"))
    assert len(places) == 0


def test_a_call_waits_for_a_full_replica_before_it_goes_elsewhere():
    places = placing(AffinitySettings(abs_threshold=100, patience_s=0.5))
    key = tree_key("a")
    home = go(places, key, idle("x", "y"))
    (other,) = {"x", "y"} - {home}
    loads = {home: 4, other: 3}
    assert places.choose(key, loads, capacity=4, waited_s=0.4).replicas == (home,)
    assert places.choose(key, loads, capacity=4, waited_s=0.6) == ((other,), Reason.MOVED)


def test_a_tree_waits_where_it_is_when_all_replicas_are_full():
    places = placing(AffinitySettings(abs_threshold=0, patience_s=0.0))
    key = tree_key("a")
    home = go(places, key, idle("x", "y"))
    assert places.choose(key, {"x": 9, "y": 4}, capacity=4, waited_s=99.0).replicas == (home,)


def test_calls_without_a_tree_go_to_the_less_loaded_of_two_that_have_room():
    places = placing()
    loads = {"full": 4, "x": 3, "y": None, "z": 0}
    drawn = [places.choose(None, loads, capacity=4) for _ in range(50)]
    assert {replica for choice in drawn for replica in choice.replicas} == {"x", "y", "z"}
    assert all(choice.reason is Reason.SPREAD and len(set(choice.replicas)) == 2 for choice in drawn)
    assert places.choose(None, {"only": 4}, capacity=4).replicas == ("only",)


def test_two_choices_balance_better_than_one():
    """5,000 calls over 10 replicas: the fullest of one choice is 40 above the mean, of two less than 8."""
    places, rng = placing(seed=3), random.Random(3)
    two, one = idle(*map(str, range(10))), Counter()
    for _ in range(5000):
        chosen = min(places.choose(None, two).replicas, key=lambda replica: two[replica])
        two[chosen] += 1
        one[rng.randrange(10)] += 1
    assert max(two.values()) - 500 < 8 < max(one.values()) - 500


def test_without_affinity_trees_are_spread_like_anything_else():
    places = placing(AffinitySettings(is_on=False))
    assert places.choose(tree_key("a"), idle("x", "y", "z")).reason is Reason.SPREAD


@given(
    settings,
    st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.none() | st.integers(0, 30), min_size=5, max_size=5)), max_size=60
    ),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_a_tree_leaves_its_replica_only_for_one_that_has_less_to_do(given_settings, calls, capacity, rng):
    places = placing(given_settings)
    homes: dict[int, str] = {}
    for tree, counts in calls:
        alive = sorted(rng.sample("abcde", rng.randint(1, 5)))
        loads = {replica: counts["abcde".index(replica)] for replica in alive}
        key, waited_s = tree_key(str(tree)), rng.random() * 3
        expected, is_new = places.home(key, loads), tree not in homes
        (replica,), reason = places.choose(key, loads, capacity=capacity, waited_s=waited_s)
        assert replica in loads
        home = homes.get(tree, first(key, alive))
        if reason is Reason.MOVED:
            load, least = loads[home if home in loads else expected], min(n for n in loads.values() if n is not None)
            assert loads[replica] < load
            is_full = load >= capacity and waited_s >= given_settings.patience_s
            assert (
                is_full
                or (is_new and load - least > given_settings.new_threshold)
                or (load - least > given_settings.abs_threshold and load > given_settings.rel_threshold * least)
            )
        elif home in loads:
            assert replica == home
        homes[tree] = replica


def test_load_stays_within_the_thresholds_when_few_trees_make_all_calls():
    """Calls end in random order; no replica is ever further above the least loaded than thresholds and one call."""
    rules = AffinitySettings(abs_threshold=6, rel_threshold=1.5)
    places, rng = placing(rules), random.Random(5)
    loads, live = idle(*"abcd"), []
    for _ in range(5000):
        while len(live) > 40:
            loads[live.pop(rng.randrange(len(live)))] -= 1
        before = dict(loads)
        replica = go(places, tree_key(str(min(rng.randrange(3), rng.randrange(3)))), loads)
        loads[replica] += 1
        live.append(replica)
        least = min(before.values())
        assert before[replica] - least <= 6 or before[replica] <= 1.5 * least


def test_memory_is_bounded_whatever_trees_come():
    places = placing(AffinitySettings(max_trees=100))
    for number in range(5000):
        go(places, tree_key(f"{number}" * 50), idle("x", "y"))
    assert len(places) == 100
    for number in range(50):
        go(places, tree_key("one tree"), idle(f"replica-{number}"))
    assert len(places.holders(tree_key("one tree"))) <= 8


@pytest.mark.parametrize(
    "given", [{"abs_threshold": -1}, {"rel_threshold": 0.9}, {"lease_s": 0}, {"max_trees": 0}, {"unknown": 1}]
)
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(ValidationError) as caught:
        AffinitySettings(**given)
    assert next(iter(given)) in str(caught.value)
