"""How far the features of made pictures lie from those of real ones: Fréchet, by kernels, and by neighbours.

Each is a statistic of made pictures of which some count more often than others, so that they can be resampled; the real
ones are the reference and stay. Recall and coverage are shares of real pictures, so there it is the other way around.
All in float64. Shapes: n made, m real, d features, r resamples.
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
NEIGHBOURLY = ("precision", "recall", "density", "coverage")
OF_REAL = ("recall", "coverage")  # shares of the real pictures

NEIGHBOURS = 5  # of precision, recall, density and coverage (arXiv 2002.09797)
BLUR, CMMD_SCALE = 10.0, 1000.0  # of CMMD's kernel, and of what it says (arXiv 2401.09603)
MOST = 5_000  # real pictures, where each is compared with each: 200 MB a matrix
WIDE = 512  # features, above which a Fréchet distance takes seconds
RESAMPLES_OF_WIDE = 50


def distances(
    real: Features, made: Features, asked: Sequence[Distance], seed: int = 0
) -> Iterator[tuple[Distance, Statistic, int, int]]:
    """Those asked for, each with how many pictures are resampled, and how often."""
    real, made = real.astype(np.float64), made.astype(np.float64)
    n, few = len(made), some(real, seed)
    if "fd" in asked:
        yield "fd", frechet(real, made), n, RESAMPLES if made.shape[1] <= WIDE else RESAMPLES_OF_WIDE
    if "kid" in asked:
        yield "kid", kernel(few, made), n, RESAMPLES
    if "cmmd" in asked:
        yield "cmmd", cmmd(few, made), n, RESAMPLES
    if near := [name for name in asked if name in NEIGHBOURLY]:
        every = neighbours(few, made)
        yield from ((name, every[name], len(few) if name in OF_REAL else n, RESAMPLES) for name in near)


def frechet(real: Features, made: Features) -> Statistic:
    """Between the two sets as Gaussians; with Inception's features FID (arXiv 1706.08500)."""
    m, d = real.shape
    if m <= d:
        raise TooFewSamples(
            f"a Fréchet distance of {d} features needs more than {d} real pictures, there are {m}: evaluate against a "
            "larger dataset version, or ask for kid"
        )
    middle, spread = _moments(real, np.ones(m))
    sizes, axes = np.linalg.eigh(spread)
    root = (axes * np.sqrt(sizes.clip(min=0))) @ axes.T

    def one(counts: np.ndarray) -> float:
        mean, cov = _moments(made, counts)
        shared = np.sqrt(np.linalg.eigvalsh(root @ cov @ root).clip(min=0)).sum()
        return float(((mean - middle) ** 2).sum() + np.trace(spread) + np.trace(cov) - 2 * shared)

    return lambda counts: np.array([one(each) for each in counts])


def kernel(real: Features, made: Features) -> Statistic:
    """KID: the unbiased squared distance of a cubic kernel's means (arXiv 1801.01401)."""
    d = real.shape[1]
    ours, both, theirs = ((a @ b.T / d + 1) ** 3 for a, b in ((made, made), (made, real), (real, real)))
    m, alone = len(real), (theirs.sum() - np.trace(theirs)) / (len(real) * (len(real) - 1))

    def of(counts: np.ndarray) -> np.ndarray:  # r n
        n = counts.sum(1)
        within = (((counts @ ours) * counts).sum(1) - counts @ np.diag(ours)) / (n * (n - 1))
        between: np.ndarray = within + alone - 2 * counts @ both.sum(1) / (n * m)
        return between

    return of


def cmmd(real: Features, made: Features) -> Statistic:
    """The squared distance of a Gaussian kernel's means, a thousandfold; meant for CLIP's features of length 1."""
    ours, both, theirs = (
        np.exp(_squares(a, b) / (-2 * BLUR**2)) for a, b in ((made, made), (made, real), (real, real))
    )
    alone, m = theirs.mean(), len(real)

    def of(counts: np.ndarray) -> np.ndarray:  # r n
        n = counts.sum(1)
        between: np.ndarray = ((counts @ ours) * counts).sum(1) / n**2 + alone - 2 * counts @ both.sum(1) / (n * m)
        return CMMD_SCALE * between

    return of


def neighbours(real: Features, made: Features) -> dict[str, Statistic]:
    """Whether made ones lie among real ones (precision, density) and all real ones are met (recall, coverage)."""
    near_real, near_made = _reach(real), _reach(made)
    apart = np.sqrt(_squares(made, real))
    among, met = apart < near_real, apart < near_made[:, None]
    shares = {
        "precision": among.any(1),
        "density": among.sum(1) / NEIGHBOURS,
        "recall": met.any(0),
        "coverage": among.any(0),
    }
    return {name: partial(_share, of.astype(np.float64)) for name, of in shares.items()}


def some(real: Features, seed: int) -> Features:
    """No more than can be compared each with each."""
    if len(real) <= MOST:
        return real
    return real[np.sort(np.random.default_rng(seed).choice(len(real), MOST, replace=False))]


def _share(of: np.ndarray, counts: np.ndarray) -> np.ndarray:
    share: np.ndarray = counts @ of / counts.sum(1)
    return share


def _moments(of: Features, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = counts.sum()
    mean = counts @ of / total
    apart = of - mean
    return mean, (apart * counts[:, None]).T @ apart / (total - 1)


def _squares(a: Features, b: Features) -> np.ndarray:
    squares: np.ndarray = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return squares.clip(min=0)


def _reach(of: Features) -> np.ndarray:
    """How far the furthest of each one's nearest neighbours is; the nearest of all is itself."""
    if len(of) <= NEIGHBOURS:
        raise TooFewSamples(f"{NEIGHBOURS} neighbours are asked of each picture: {len(of)} are too few")
    reach: np.ndarray = np.sqrt(np.partition(_squares(of, of), NEIGHBOURS, axis=1)[:, NEIGHBOURS])
    return reach
