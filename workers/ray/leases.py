"""What a replica knows of the trees it serves: until when their prefixes stay pinned, and what the cache had of them.

Pins are leases: each call of a tree renews them, and `TreeLeases.expired` names the trees that were not heard of for
the lease's time, for the replica to release. A caller that died, or a tree that went elsewhere, pins nothing for long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Self

from orchestrator.workers.ray.placing import Reason
from orchestrator.workers.ray.routing import Release, Routing


@dataclass(slots=True)
class AffinityCounters:
    """What came of affinity, as one replica sees it; totals.

    Attributes:
        tree_calls: Calls that belong to a tree and were read.
        known_calls: Of those, calls of a tree that this replica had read before, within the lease.
        missed_calls: Of the known ones, those of whose prompt the cache had nothing: it had given up the tree.
        moved_calls: Calls of a tree that others had read before, and this replica had not.
        spilled_calls: Calls that came because their tree's own replica had too much to do.
        tree_prompt_tokens, tree_cached_tokens: Of the calls of trees.
        tree_releases: Releases carried out.
        expired_trees: Trees released because nothing was heard of them.
    """

    tree_calls: int = 0
    known_calls: int = 0
    missed_calls: int = 0
    moved_calls: int = 0
    spilled_calls: int = 0
    tree_prompt_tokens: int = 0
    tree_cached_tokens: int = 0
    tree_releases: int = 0
    expired_trees: int = 0

    def to_json(self) -> dict[str, int]:
        """For `record_routing_stats`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Self:
        """The inverse of `to_json`; what is not known is left out."""
        return cls(**{each.name: int(data.get(each.name, 0)) for each in fields(cls)})

    def __add__(self, other: AffinityCounters) -> AffinityCounters:
        return AffinityCounters(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def describe(self) -> str:
        """One line for people; empty if no call belonged to a tree."""
        if not self.tree_calls:
            return ""
        cached = self.tree_cached_tokens / self.tree_prompt_tokens if self.tree_prompt_tokens else 0.0
        return (
            f"{self.tree_calls} calls of trees, {cached:.0%} of their prompt tokens cached; {self.moved_calls} calls "
            f"came from other replicas, {self.missed_calls} found their tree's prefix gone"
        )


@dataclass(slots=True)
class _Lease:
    renewed: float
    num_live: int = 0
    is_read: bool = False
    releases: tuple[str, int] = ("", 0)


@dataclass(slots=True)
class TreeCall:
    """One call under way.

    Attributes:
        release: To be carried out before it.
        prompt_tokens, cached_tokens: What was read of its prompt; None until it was.
        lease: Its tree's; None for no tree.
    """

    release: Release | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    lease: _Lease | None = None

    def read(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The prompt has been read; the last word counts."""
        self.prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
        if self.lease is not None:
            self.lease.is_read = True


class TreeLeases:
    """The trees of one replica.

    Args:
        lease_s: How long pins outlive the tree's last call.
        clock: Seconds, monotonic.
        max_trees: With more, those that are idle for longest expire at once.

    Attributes:
        counters: What came of affinity.
    """

    def __init__(self, lease_s: float, *, clock: Callable[[], float], max_trees: int = 65_536) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._max_trees = max_trees
        self._leases: OrderedDict[str, _Lease] = OrderedDict()
        self.counters = AffinityCounters()

    def __len__(self) -> int:
        return len(self._leases)

    @contextmanager
    def call(self, routing: Routing) -> Iterator[TreeCall]:
        """A call from its arrival to its end: renews the lease at both, and counts what the cache had."""
        call = TreeCall()
        if not routing.tree_id:
            yield call
            return
        lease = self._renew(routing.tree_id)
        was_read = lease.is_read
        lease.num_live += 1
        call.lease, call.release = lease, self._due(lease, routing.release)
        try:
            yield call
        finally:
            lease.num_live -= 1
            if routing.tree_id in self._leases:
                self._renew(routing.tree_id)
            if call.prompt_tokens is not None:
                self._count(call, routing, was_read=was_read)

    def released(self, tree_id: str) -> None:
        """A tree is done."""
        self._leases.pop(tree_id, None)
        self.counters.tree_releases += 1

    def expired(self) -> list[str]:
        """Trees to be released because nothing was heard of them; each is named once."""
        now = self._clock()
        gone: list[str] = []
        for tree_id, lease in self._leases.items():
            is_over = now - lease.renewed > self._lease_s
            if not is_over and len(self._leases) - len(gone) <= self._max_trees:
                break
            if not lease.num_live:
                gone.append(tree_id)
        for tree_id in gone:
            del self._leases[tree_id]
        self.counters.expired_trees += len(gone)
        return gone

    def _renew(self, tree_id: str) -> _Lease:
        lease = self._leases.setdefault(tree_id, _Lease(0.0))
        lease.renewed = self._clock()
        self._leases.move_to_end(tree_id)
        return lease

    def _due(self, lease: _Lease, release: Release | None) -> Release | None:
        """The release, unless it, or a later one, was carried out already."""
        if release is None:
            return None
        caller, number = lease.releases
        if caller == release.caller and number >= release.number:
            return None
        lease.releases = (release.caller, release.number)
        self.counters.tree_releases += 1
        return release

    def _count(self, call: TreeCall, routing: Routing, *, was_read: bool) -> None:
        counters = self.counters
        counters.tree_calls += 1
        counters.tree_prompt_tokens += call.prompt_tokens or 0
        counters.tree_cached_tokens += call.cached_tokens
        counters.known_calls += was_read
        counters.missed_calls += was_read and not call.cached_tokens
        counters.moved_calls += routing.is_known and not was_read
        counters.spilled_calls += routing.reason == Reason.MOVED
