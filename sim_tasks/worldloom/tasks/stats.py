"""Episode numbers -> what they say about a policy: intervals, and paired comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054  # Two-sided 95 % point of the normal distribution.
RESAMPLES = 10_000
BLOCK = 500  # Resamples drawn at once: bounds the memory, not the result.


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Number of episodes behind it."""

    def text(self, *, digits: int = 2) -> str:
        """As people read it: `0.90 [0.83, 0.95]`."""
        if self.n == 0:
            return "none"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


EMPTY = Estimate(math.nan, math.nan, math.nan, 0)


def wilson(successes: int, n: int) -> Estimate:
    """A rate with Wilson's score interval at 95 %; 0 of n never claims certainty."""
    if n == 0:
        return EMPTY
    rate, z2 = successes / n, Z_95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # Rounding must not push a bound past the rate itself at 0 and 1.
    return Estimate(rate, max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate)), n)


def bootstrap(values: ArrayLike, *, groups: Sequence[str] | None = None, seed: int = 0) -> Estimate:
    """A mean with its percentile bootstrap interval at 95 %.

    Args:
        values: One number an episode, shape [n]; NaN is left out.
        groups: World of each episode: with two worlds or more, worlds are drawn first and then
            episodes within them, since episodes of one world are alike.
        seed: Same seed, same interval.
    """
    values = np.asarray(values, float)
    keep = ~np.isnan(values)
    values = values[keep]
    if len(values) == 0:
        return EMPTY
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(values)]))
    names = [] if groups is None else [g for g, k in zip(groups, keep, strict=True) if k]
    worlds = sorted(set(names))
    if len(worlds) < 2:
        means = _resampled_means(values, rng)
    else:
        labels = np.asarray(names)
        means = _clustered_means([values[labels == world] for world in worlds], rng)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


@dataclass(frozen=True)
class Comparison:
    """Policy B against policy A on the same episodes."""

    n: int
    only_a: int
    """Episodes that only A solved."""
    only_b: int
    """Episodes that only B solved."""
    p_value: float
    """Two-sided exact McNemar test: how likely such a split is between equal policies."""
    success_difference: Estimate
    """Success of B minus success of A."""


def compare_success(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> Comparison:
    """Compare success flags [n] of two policies, paired by episode."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    difference = bootstrap(b.astype(float) - a, seed=seed)
    return Comparison(len(a), only_a, only_b, mcnemar(only_a, only_b), difference)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of the discordant pairs under a fair coin."""
    n, least = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    return min(1.0, 2 * tail)


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    parts = []
    for begin in range(0, RESAMPLES, BLOCK):
        count = min(BLOCK, RESAMPLES - begin)
        parts.append(values[rng.integers(0, len(values), (count, len(values)))].mean(1))
    return np.concatenate(parts)


def _clustered_means(
    clusters: list[NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means of resamples that draw whole clusters, then members within each."""
    sizes = np.array([len(cluster) for cluster in clusters])
    padded = np.zeros((len(clusters), sizes.max()))
    for row, cluster in zip(padded, clusters, strict=True):
        row[: len(cluster)] = cluster
    places = np.arange(sizes.max())
    parts = []
    for begin in range(0, RESAMPLES, BLOCK):
        count = min(BLOCK, RESAMPLES - begin)
        total, members = np.zeros(count), np.zeros(count)
        for _ in range(len(clusters)):
            chosen = rng.integers(0, len(clusters), count)
            size = sizes[chosen][:, None]
            picks = np.floor(rng.random((count, sizes.max())) * size).astype(np.int64)
            drawn = np.where(places < size, padded[chosen[:, None], picks], 0.0)
            total, members = total + drawn.sum(1), members + size[:, 0]
        parts.append(total / members)
    return np.concatenate(parts)
