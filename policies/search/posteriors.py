"""Posteriors of a mean score, and Thompson sampling with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

PriorName = Literal["gaussian", "beta"]

_KeyT = TypeVar("_KeyT")


class Posterior(Protocol):
    """What is known of the mean of scores in [0, 1]."""

    def add(self, score: float) -> None:
        """Learns one more score."""
        ...

    def draw(self, rng: np.random.Generator) -> float:
        """A mean as it may be."""
        ...


@dataclass(slots=True)
class GaussianPosterior:
    """Of the mean of a Gaussian whose variance is unknown, too; starts as a normal-inverse-chi-squared prior.

    With n scores of mean x and sum of squared deviations SS: kappa' = kappa + n, nu' = nu + n,
    m' = (kappa m + n x) / kappa', and nu' tau2' = nu tau2 + SS + n kappa (m - x)^2 / kappa' (Murphy, 2023, section
    3.4.3.3). The defaults are those of Inoue et al., 2025.

    Attributes:
        m: Expected mean.
        kappa: Scores that `m` is worth.
        nu: Scores that `tau2` is worth.
        tau2: Expected variance, about.
    """

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau2: float = 0.1

    def add(self, score: float) -> None:
        """Learns one more score; one after the other comes to the same as all at once."""
        sum_squares = self.nu * self.tau2 + self.kappa * (score - self.m) ** 2 / (self.kappa + 1)
        self.m = (self.kappa * self.m + score) / (self.kappa + 1)
        self.kappa += 1
        self.nu += 1
        self.tau2 = sum_squares / self.nu

    def draw(self, rng: np.random.Generator) -> float:
        """The variance is InvGamma(nu / 2, nu tau2 / 2) and the mean N(m, variance / kappa), that is, Student's t."""
        return self.m + math.sqrt(self.tau2 / self.kappa) * float(rng.standard_t(self.nu))


@dataclass(slots=True)
class BetaPosterior:
    """Of the chance of success, of which a score is a part; starts as Jeffreys' prior.

    Attributes:
        successes: Sum of scores, and 1/2.
        failures: Sum of 1 - score, and 1/2.
    """

    successes: float = 0.5
    failures: float = 0.5

    def add(self, score: float) -> None:
        """Learns one more score."""
        self.successes += score
        self.failures += 1 - score

    def draw(self, rng: np.random.Generator) -> float:
        """From Beta(successes, failures)."""
        return float(rng.beta(self.successes, self.failures))


PRIORS: Mapping[PriorName, Callable[[], Posterior]] = {"gaussian": GaussianPosterior, "beta": BetaPosterior}


def thompson_choice(posteriors: Mapping[_KeyT, Posterior], rng: np.random.Generator) -> _KeyT:
    """The key with the largest draw; each is chosen as often as it is likely to be the best (Thompson, 1933)."""
    draws = {key: posterior.draw(rng) for key, posterior in posteriors.items()}
    return max(draws, key=draws.__getitem__)
