"""A figure is never a number alone: how many samples it is from, and between what it would come out again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
TAILS = (0.025, 0.975)  # between which an interval lies
Groups = Sequence[object] | np.ndarray  # of each sample, what it is resampled with
Statistic = Callable[[np.ndarray], np.ndarray]  # of resamples that say how often each sample counts (r n), a value each


@dataclass(frozen=True)
class Figure:
    """A measured value, its bootstrap interval, and the samples that it is from."""

    value: float
    low: float
    high: float
    n: int


def mean(values: np.ndarray, seed: int = 0, groups: Groups | None = None) -> Figure:
    """A mean, resampled by groups where samples of one are alike: several pictures of one prompt."""
    if not len(values):
        return Figure(math.nan, math.nan, math.nan, 0)
    which = np.arange(len(values)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(which, values), np.bincount(which)
    counts = resampled(len(sums), RESAMPLES, seed)
    low, high = np.quantile(counts @ sums / (counts @ sizes), TAILS)
    return Figure(float(values.mean()), float(low), float(high), len(values))


def statistic(of: Statistic, groups: Groups, seed: int = 0, resamples: int = RESAMPLES) -> Figure:
    """Of samples by their groups. A resample holds samples twice, which brings a distance between sets up: of resamples
    only how they spread is taken, around the value.
    """
    which = np.unique(np.array(groups), return_inverse=True)[1]
    value = float(of(np.ones((1, len(which))))[0])
    counts = resampled(int(which.max()) + 1, resamples, seed)[:, which]
    found = of(counts)
    low, high = value + np.quantile(found, TAILS) - found.mean()
    return Figure(value, float(low), float(high), len(which))


def resampled(n: int, resamples: int, seed: int) -> np.ndarray:  # r n
    """How often each sample counts in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)
