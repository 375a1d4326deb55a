"""Distances between the features of generated and of real pictures: Fréchet, by kernels, and by nearest neighbours.

Each distance is a statistic of weighted samples, so that it can be bootstrapped. The samples are the generated
pictures, and the real ones are a fixed reference. Recall and coverage are shares of the real pictures, so for these two
the samples are the real pictures. All arithmetic is in float64. Shapes: n generated, m real, d features, r resamples.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np

from imagen.errors import TooFewSamples
from imagen.metrics.intervals import RESAMPLES, Statistic

Features = np.ndarray  # n d
Distance = Literal["fd", "kid", "cmmd", "precision", "recall", "density", "coverage"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
NEIGHBOUR_METRICS = ("precision", "recall", "density", "coverage")
SHARES_OF_REAL = ("recall", "coverage")

NEIGHBOURS = 5  # of precision, recall, density and coverage (arXiv 2002.09797)
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # width of CMMD's kernel, and factor of its value (arXiv 2401.09603)
MAX_REAL = 5_000  # real pictures in metrics that compare all pairs: 200 MB a matrix
WIDE_FEATURES = 512  # with more features than this a Fréchet distance takes seconds
WIDE_RESAMPLES = 50


def distances(
    real: Features, generated: Features, names: Sequence[Distance], seed: int = 0
) -> Iterator[tuple[Distance, Statistic, int, int]]:
    """Yield each distance as a name, its statistic, the number of samples, and the number of resamples.

    Args:
        names: the distances to compute.
        seed: chooses the real pictures if there are more than `MAX_REAL`.

    Raises:
        TooFewSamples: a distance needs more pictures than there are.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    n, real_subset = len(generated), subsample(real, seed)
    if "fd" in names:
        resamples = RESAMPLES if generated.shape[1] <= WIDE_FEATURES else WIDE_RESAMPLES
        yield "fd", frechet(real, generated), n, resamples
    if "kid" in names:
        yield "kid", kid(real_subset, generated), n, RESAMPLES
    if "cmmd" in names:
        yield "cmmd", cmmd(real_subset, generated), n, RESAMPLES
    neighbour_names = [name for name in names if name in NEIGHBOUR_METRICS]
    if neighbour_names:
        statistics = neighbour_metrics(real_subset, generated)
        for name in neighbour_names:
            yield name, statistics[name], len(real_subset) if name in SHARES_OF_REAL else n, RESAMPLES


def frechet(real: Features, generated: Features) -> Statistic:
    """Return the Fréchet distance between Gaussians fitted to both sets; FID if the features are Inception's.

    See arXiv 1706.08500.

    Raises:
        TooFewSamples: there are not more real pictures than features.
    """
    m, d = real.shape
    if m <= d:
        raise TooFewSamples(
            f"a Fréchet distance of {d} features needs more than {d} real pictures, there are {m}: evaluate against a "
            "larger dataset version, or ask for kid"
        )
    real_mean, real_cov = _mean_and_covariance(real, np.ones(m))
    eigenvalues, eigenvectors = np.linalg.eigh(real_cov)
    root = (eigenvectors * np.sqrt(eigenvalues.clip(min=0))) @ eigenvectors.T

    def of_resample(counts: np.ndarray) -> float:  # n
        mean, cov = _mean_and_covariance(generated, counts)
        cross = np.sqrt(np.linalg.eigvalsh(root @ cov @ root).clip(min=0)).sum()
        return float(((mean - real_mean) ** 2).sum() + np.trace(real_cov) + np.trace(cov) - 2 * cross)

    return lambda counts: np.array([of_resample(row) for row in counts])


def kid(real: Features, generated: Features) -> Statistic:
    """Return KID: the unbiased estimate of the squared MMD with a cubic kernel (arXiv 1801.01401)."""
    m, d = real.shape

    def kernel(a: Features, b: Features) -> np.ndarray:
        values: np.ndarray = (a @ b.T / d + 1) ** 3
        return values

    k_gg, k_gr, k_rr = kernel(generated, generated), kernel(generated, real), kernel(real, real)
    real_term = (k_rr.sum() - np.trace(k_rr)) / (m * (m - 1))

    def of_resamples(counts: np.ndarray) -> np.ndarray:  # r n
        n = counts.sum(1)
        generated_term = (((counts @ k_gg) * counts).sum(1) - counts @ np.diag(k_gg)) / (n * (n - 1))
        values: np.ndarray = generated_term + real_term - 2 * counts @ k_gr.sum(1) / (n * m)
        return values

    return of_resamples


def cmmd(real: Features, generated: Features) -> Statistic:
    """Return CMMD: the squared MMD with a Gaussian kernel, times 1,000. It is meant for CLIP features of length 1."""
    m = len(real)

    def kernel(a: Features, b: Features) -> np.ndarray:
        values: np.ndarray = np.exp(_squared_distances(a, b) / (-2 * CMMD_SIGMA**2))
        return values

    k_gg, k_gr, k_rr = kernel(generated, generated), kernel(generated, real), kernel(real, real)
    real_term = k_rr.mean()

    def of_resamples(counts: np.ndarray) -> np.ndarray:  # r n
        n = counts.sum(1)
        generated_term = ((counts @ k_gg) * counts).sum(1) / n**2
        values: np.ndarray = generated_term + real_term - 2 * counts @ k_gr.sum(1) / (n * m)
        return CMMD_SCALE * values

    return of_resamples


def neighbour_metrics(real: Features, generated: Features) -> dict[str, Statistic]:
    """Return precision, recall, density and coverage by nearest neighbours, as statistics keyed by name.

    Precision and density measure whether generated pictures are like real ones; recall and coverage measure whether
    every real picture has generated ones that are like it.

    Raises:
        TooFewSamples: there are not more pictures than `NEIGHBOURS`.
    """
    real_radii, generated_radii = _neighbour_radii(real), _neighbour_radii(generated)
    pair_distances = np.sqrt(_squared_distances(generated, real))  # n m
    near_real = pair_distances < real_radii
    near_generated = pair_distances < generated_radii[:, None]
    values = {
        "precision": near_real.any(1),
        "density": near_real.sum(1) / NEIGHBOURS,
        "recall": near_generated.any(0),
        "coverage": near_real.any(0),
    }
    return {name: partial(_weighted_mean, sample_values.astype(np.float64)) for name, sample_values in values.items()}


def subsample(real: Features, seed: int) -> Features:
    """Return at most `MAX_REAL` rows, chosen by the seed, in their original order."""
    if len(real) <= MAX_REAL:
        return real
    return real[np.sort(np.random.default_rng(seed).choice(len(real), MAX_REAL, replace=False))]


def _weighted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    means: np.ndarray = counts @ values / counts.sum(1)
    return means


def _mean_and_covariance(features: Features, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = counts.sum()
    mean = counts @ features / total
    centred = features - mean
    return mean, (centred * counts[:, None]).T @ centred / (total - 1)


def _squared_distances(a: Features, b: Features) -> np.ndarray:
    squares: np.ndarray = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return squares.clip(min=0)


def _neighbour_radii(features: Features) -> np.ndarray:
    """Return the distance of each row to its k-th nearest neighbour; the row itself is the 0th."""
    if len(features) <= NEIGHBOURS:
        raise TooFewSamples(
            f"precision, recall, density and coverage need more than {NEIGHBOURS} pictures, there are {len(features)}: "
            "use more prompts, a larger dataset version, or other distances"
        )
    squares = np.partition(_squared_distances(features, features), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    radii: np.ndarray = np.sqrt(squares)
    return radii
