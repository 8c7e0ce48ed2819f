"""Which replica a call goes to: the one that holds its tree, unless its load says otherwise. No Ray in here.

The first call of a tree goes where rendezvous hashing says, so any process finds the same replica. A tree stays where
it is while it lives: a replica that comes takes new trees only. It is moved when its replica has much more to do than
another one, or stays full; then it stays where it was moved to, and is found again by hashing when that replica goes.
Calls without a tree go to the less loaded of two replicas drawn at random.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.workers.ray.rendezvous import first, weight

_MAX_HOLDERS = 8
"""Replicas that are remembered of one tree; a tree with more calls than so many replicas can take is a rare one."""


class AffinitySettings(BaseModel):
    """How calls are routed; plain JSON values, because Ray Serve hands them to its routers as such.

    Attributes:
        is_on: Whether trees have a replica at all; off, every call goes to the less loaded of two.
        abs_threshold: A tree may leave a replica that has more than so many calls more than the least loaded one,
        rel_threshold: and more than so many times as many.
        new_threshold: A tree that is new here has nothing to lose; it goes to the least loaded replica if the one that
            hashing says has more than so many calls more.
        patience_s: A call waits so long for its tree's replica if that is full and others are not.
        lease_s: A tree that is not heard of for so long is forgotten, and its pinned prefixes are released.
        max_trees: Most trees that one router remembers; the ones that are not used for longest are forgotten.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    is_on: bool = True
    abs_threshold: int = Field(16, ge=0, le=1_000_000)
    rel_threshold: float = Field(1.5, ge=1.0, le=1e6)
    new_threshold: int = Field(2, ge=0, le=1_000_000)
    patience_s: float = Field(0.25, ge=0.0, le=3600.0)
    lease_s: float = Field(300.0, ge=1.0, le=86_400.0)
    max_trees: int = Field(65_536, ge=1, le=10_000_000)


class Reason(StrEnum):
    """Why a call goes where it goes."""

    HASHED = "hashed"  # the tree is not known here
    HELD = "held"  # the replica has had the tree's last call
    MOVED = "moved"  # the tree's replica has too much to do
    RETURNED = "returned"  # the tree's replica is gone
    SPREAD = "spread"  # there is no tree


class Choice(NamedTuple):
    """Replicas to try, all of them alike, and why."""

    replicas: tuple[str, ...]
    reason: Reason


@dataclass(slots=True)
class _Place:
    """Where a tree is: the replica of its last call, and when (seconds of the clock) each replica had its last one."""

    home: str
    used: dict[str, float] = field(default_factory=dict)


class TreePlacing:
    """Decides, and remembers where trees are.

    Args:
        settings: How.
        clock: Seconds, monotonic.
        rng: Draws two replicas for calls without a tree.
    """

    def __init__(self, settings: AffinitySettings, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._places: OrderedDict[bytes, _Place] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def choose(
        self,
        key: bytes | None,
        loads: Mapping[str, int | None],
        *,
        capacity: float = float("inf"),
        waited_s: float = 0.0,
    ) -> Choice:
        """The replica or replicas to try for a call; a tree is taken to be there from now on.

        Args:
            key: Names the tree; None for no tree.
            loads: Calls under way at each replica that there is, at least one; None where that is not known.
            capacity: A replica with so many is full.
            waited_s: How long the call has been waiting for a replica that takes it.
        """
        if key is None or not self._settings.is_on:
            return Choice(self._two_of(loads, capacity), Reason.SPREAD)
        self._drop_expired()
        place = self._places.get(key)
        home, reason = self._home(key, place, loads)
        target = self._better_than(home, key, place, loads, capacity=capacity, waited_s=waited_s)
        if target is not None:
            home, reason = target, Reason.MOVED
        self._remember(key, home)
        return Choice((home,), reason)

    def home(self, key: bytes, replicas: Mapping[str, object]) -> str:
        """Where a tree is, or would be, whatever the load."""
        return self._home(key, self._places.get(key), replicas)[0]

    def forget(self, key: bytes) -> None:
        """A tree is done."""
        self._places.pop(key, None)

    def holders(self, key: bytes) -> tuple[str, ...]:
        """Replicas that have had calls of a tree lately, the last one last."""
        place = self._places.get(key)
        if place is None:
            return ()
        since = self._clock() - self._settings.lease_s
        return tuple(replica for replica, used in place.used.items() if used >= since)

    def _home(self, key: bytes, place: _Place | None, replicas: Mapping[str, object]) -> tuple[str, Reason]:
        if place is None:
            return first(key, replicas), Reason.HASHED
        if place.home in replicas:
            return place.home, Reason.HELD
        left = [replica for replica in self.holders(key) if replica in replicas]
        return first(key, left or replicas), Reason.RETURNED

    def _better_than(
        self,
        home: str,
        key: bytes,
        place: _Place | None,
        loads: Mapping[str, int | None],
        *,
        capacity: float,
        waited_s: float,
    ) -> str | None:
        """Where a call should go instead of its tree's replica; None if it should go there."""
        load = loads[home]
        known = {replica: count for replica, count in loads.items() if count is not None and count < capacity}
        if load is None or not known:
            return None
        least = min(known.values())
        is_full = load >= capacity and waited_s >= self._settings.patience_s
        is_new_and_better_off = place is None and load - least > self._settings.new_threshold
        if not is_full and not is_new_and_better_off and not self._is_much(load, least):
            return None
        held = () if place is None else [replica for replica in self.holders(key) if replica in known]
        fit = [replica for replica in held if known[replica] < load and not self._is_much(known[replica], least)]
        return self._least_loaded(key, known, fit or [replica for replica in known if known[replica] == least])

    def _is_much(self, load: int, least: int) -> bool:
        """Whether a load is out of balance with the least one (the rule of sgl-router, for the replica in question)."""
        return load - least > self._settings.abs_threshold and load > self._settings.rel_threshold * least

    @staticmethod
    def _least_loaded(key: bytes, loads: Mapping[str, int], replicas: Sequence[str]) -> str:
        return min(replicas, key=lambda replica: (loads[replica], -weight(key, replica), replica))

    def _two_of(self, loads: Mapping[str, int | None], capacity: float) -> tuple[str, ...]:
        """Two replicas that are not known to be full, or any two."""
        free = [replica for replica, load in loads.items() if load is None or load < capacity]
        among = free or list(loads)
        return tuple(self._rng.sample(among, min(2, len(among))))

    def _remember(self, key: bytes, replica: str) -> None:
        now = self._clock()
        place = self._places.setdefault(key, _Place(replica))
        place.home = replica
        place.used.pop(replica, None)
        place.used[replica] = now
        if len(place.used) > _MAX_HOLDERS:
            del place.used[next(iter(place.used))]
        self._places.move_to_end(key)
        while len(self._places) > self._settings.max_trees:
            self._places.popitem(last=False)

    def _drop_expired(self) -> None:
        since = self._clock() - self._settings.lease_s
        while self._places:
            key, place = next(iter(self._places.items()))
            if place.used[place.home] >= since:
                return
            del self._places[key]
