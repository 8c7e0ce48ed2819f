"""Which replica a call goes to. Loads are calls under way; each rule sees all of them, as Ray Serve's routers do."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Loads = npt.NDArray[np.int64]
_MOST_PLACES = 8
RoutingName = Literal["affinity", "two_choices", "least_loaded", "random"]


class Routing(Protocol):
    """Chooses a replica."""

    def __call__(self, tree: int, loads: Loads) -> int:
        """The place of a replica for a call of this tree; it need not have room."""
        ...

    def forget(self, tree: int) -> None:
        """A tree is over."""
        ...


class Affinity:
    """Calls of a tree go where its last one went, its first one where a hash of the tree says, unless that replica is
    much busier than the least busy one; then the tree moves, best of all to a replica that it has been on.

    That is the rule of `orchestrator.workers.ray.placing` with its thresholds, restated over an array, because there
    are thousands of replicas here. A hash modulo their number stands for rendezvous hashing: the two differ when
    replicas come and go, which none does here. A call whose replica is full moves at once instead of after a pause.

    Args:
        absolute: A replica is too busy with more than so many calls above the least busy one,
        relative: and more than so many times as many.
        new: For a tree's first call: with more than so many calls above the least busy one.
    """

    def __init__(self, *, absolute: int = 16, relative: float = 1.5, new: int = 2) -> None:
        self._absolute = absolute
        self._relative = relative
        self._new = new
        self._places: dict[int, list[int]] = {}

    def __call__(self, tree: int, loads: Loads) -> int:
        """Its replica, or a less busy one from now on."""
        places = self._places.setdefault(tree, [])
        home = places[-1] if places else _mixed(tree) % len(loads)
        load = int(loads[home])
        if load > min(self._absolute, self._new):
            least = int(loads.min())
            if self._is_much(load, least) or (not places and load - least > self._new):
                fit = [place for place in places if loads[place] < load and not self._is_much(int(loads[place]), least)]
                home = min(fit, key=lambda place: int(loads[place])) if fit else int(loads.argmin())
        if home in places:
            places.remove(home)
        places.append(home)
        del places[:-_MOST_PLACES]
        return home

    def forget(self, tree: int) -> None:
        """A tree is over."""
        self._places.pop(tree, None)

    def _is_much(self, load: int, least: int) -> bool:
        return load - least > self._absolute and load > self._relative * least


class _Memoryless:
    """Rules that know nothing of trees."""

    def forget(self, tree: int) -> None:
        """Nothing is remembered."""


class TwoChoices(_Memoryless):
    """The less busy one of two replicas drawn at random (Serve's own rule)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def __call__(self, tree: int, loads: Loads) -> int:  # noqa: ARG002  # one signature for all
        """The less busy of the two."""
        first, second = (int(self._rng.random() * len(loads)) for _ in range(2))
        return first if loads[first] <= loads[second] else second


class LeastLoaded(_Memoryless):
    """The replica with the fewest calls; the first one of several."""

    def __call__(self, tree: int, loads: Loads) -> int:  # noqa: ARG002  # one signature for all
        """The least busy one."""
        return int(loads.argmin())


class AtRandom(_Memoryless):
    """Any replica."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def __call__(self, tree: int, loads: Loads) -> int:  # noqa: ARG002  # one signature for all
        """One of them."""
        return int(self._rng.random() * len(loads))


def routing(
    name: RoutingName, rng: np.random.Generator, *, absolute: int = 16, relative: float = 1.5, new: int = 2
) -> Routing:
    """The rule of a name; numbers are those of `Affinity`."""
    if name == "affinity":
        return Affinity(absolute=absolute, relative=relative, new=new)
    if name == "two_choices":
        return TwoChoices(rng)
    return LeastLoaded() if name == "least_loaded" else AtRandom(rng)


def _mixed(number: int) -> int:
    """A number whose bits all depend on all bits of ``number`` (the finaliser of splitmix64)."""
    number = (number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    number = (number ^ number >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return number ^ number >> 31
