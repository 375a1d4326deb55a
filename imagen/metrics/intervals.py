"""Bootstrap intervals: each figure is a value, its 95 % interval, and the number of its samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
TAILS = (0.025, 0.975)  # the quantiles that bound an interval
Groups = Sequence[object] | np.ndarray  # the group of each sample; a group is resampled as a whole
Statistic = Callable[[np.ndarray], np.ndarray]  # how often each sample counts in each resample (r n) → values (r)


@dataclass(frozen=True)
class Figure:
    """A measured value, the bounds of its bootstrap interval, and the number of samples."""

    value: float
    low: float
    high: float
    n: int


def bootstrap_mean(values: np.ndarray, seed: int = 0, groups: Groups | None = None) -> Figure:
    """Return the mean of values with its bootstrap interval; nan if there are no values.

    Args:
        groups: the group of each value. Give it if values of a group are correlated, such as the pictures of one
            prompt: then groups are resampled instead of values.
    """
    if not len(values):
        return Figure(math.nan, math.nan, math.nan, 0)
    group_of = np.arange(len(values)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(group_of, values), np.bincount(group_of)
    counts = resample_counts(len(sums), RESAMPLES, seed)
    low, high = np.quantile(counts @ sums / (counts @ sizes), TAILS)
    return Figure(float(values.mean()), float(low), float(high), len(values))


def bootstrap_statistic(statistic: Statistic, groups: Groups, seed: int = 0, resamples: int = RESAMPLES) -> Figure:
    """Return the value of a statistic, with its bootstrap interval.

    A resample repeats samples, which biases a distance between sets upwards. So the interval has the spread of the
    resamples but is centred on the value of the original samples.

    Args:
        groups: the group of each sample. Groups are resampled instead of samples.
    """
    group_of = np.unique(np.array(groups), return_inverse=True)[1]
    value = float(statistic(np.ones((1, len(group_of))))[0])
    counts = resample_counts(int(group_of.max()) + 1, resamples, seed)[:, group_of]
    resampled = statistic(counts)
    low, high = value + np.quantile(resampled, TAILS) - resampled.mean()
    return Figure(value, float(low), float(high), len(group_of))


def resample_counts(n: int, resamples: int, seed: int) -> np.ndarray:  # r n
    """Return how often each of n samples occurs in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)
