"""Each distance against another's implementation or a closed form, on the same features."""

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_kid import kernel_poly, mmd2
from torch_fidelity.metric_prc import calculate_precision_recall_full

from imagen.errors import TooFewSamples
from imagen.metrics.distances import (
    CMMD_SCALE,
    DISTANCES,
    MAX_REAL,
    NEIGHBOURS,
    SHARES_OF_REAL,
    Distance,
    cmmd,
    distances,
    frechet,
    kid,
    neighbour_metrics,
    subsample,
)
from imagen.metrics.intervals import Figure, bootstrap_statistic

N, M, D = 150, 220, 12


@pytest.fixture
def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.normal(size=(M, D)) @ rng.normal(size=(D, D)), 0.3 + rng.normal(size=(N, D)) * 1.4


def figures(real: np.ndarray, made: np.ndarray, names: Sequence[Distance], seed: int = 0) -> dict[str, Figure]:
    statistics = distances(real, made, names, seed)
    return {name: bootstrap_statistic(of, np.arange(n), seed, resamples) for name, of, n, resamples in statistics}


def once(n: int) -> np.ndarray:
    return np.ones((1, n))


def gaussian(n: int, mean: np.ndarray, cov: np.ndarray, seed: int) -> np.ndarray:
    """Samples whose mean and covariance are these to the last digits."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return mean + x @ np.linalg.cholesky(cov).T


def test_the_frechet_distance_is_that_of_the_gaussians() -> None:
    """Of commuting covariances: |m1 - m2|² + Σ (√a - √b)²."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    a, b = np.linspace(0.5, 3, D), np.linspace(4, 0.1, D)
    real = gaussian(M, np.zeros(D), turn @ np.diag(a) @ turn.T, 2)
    made = gaussian(N, np.full(D, 0.5), turn @ np.diag(b) @ turn.T, 3)
    expected = D * 0.25 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet(real, made)(once(N))[0] == pytest.approx(expected, rel=1e-8)


def test_the_frechet_distance_agrees_with_scipys_root_of_a_matrix(features: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = features
    covs = np.cov(real.T), np.cov(made.T)
    root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + np.trace(covs[0] + covs[1] - 2 * root)
    assert frechet(real, made)(once(N))[0] == pytest.approx(expected, rel=1e-8)


def test_kid_agrees_with_torch_fidelitys(features: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = features
    real = real[:N]  # theirs wants as many of both
    theirs = mmd2(kernel_poly(made, made), kernel_poly(made, real), kernel_poly(real, real))
    assert kid(real, made)(once(N))[0] == pytest.approx(float(theirs), rel=1e-4)


def test_cmmd_is_the_mean_over_all_pairs(features: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = features

    def near(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((x - y) ** 2).sum() / 200) for y in b] for x in a]))

    expected = CMMD_SCALE * (near(real, real) + near(made, made) - 2 * near(real, made))
    assert cmmd(real, made)(once(N))[0] == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_agree_with_torch_fidelitys(features: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = features
    theirs = calculate_precision_recall_full(
        torch.tensor(made), torch.tensor(real), neighborhood=NEIGHBOURS, batch_size=50
    )
    ours = neighbour_metrics(real, made)
    for name, of, expected in zip(("precision", "recall"), (N, M), theirs, strict=True):
        assert ours[name](once(of))[0] == pytest.approx(float(expected), rel=1e-4)


def test_density_and_coverage_are_counted_one_by_one(features: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = features
    reach = [np.sort(np.linalg.norm(real - point, axis=1))[NEIGHBOURS] for point in real]
    inside = [
        [np.linalg.norm(point - centre) < most for centre, most in zip(real, reach, strict=True)] for point in made
    ]
    ours = neighbour_metrics(real, made)
    assert ours["density"](once(N))[0] == pytest.approx(np.sum(inside) / (NEIGHBOURS * N))
    assert ours["coverage"](once(M))[0] == pytest.approx(np.any(inside, axis=0).mean())


def test_a_resample_is_a_set_with_repetitions(features: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = features
    counts = np.random.default_rng(0).multinomial(N, np.full(N, 1 / N))
    repeated = np.repeat(made, counts, axis=0)
    for of in (frechet, kid, cmmd):
        again = of(real, repeated)(once(N))
        assert of(real, made)(counts[None].astype(float))[0] == pytest.approx(again[0], rel=1e-9)


def test_an_interval_holds_what_it_promises() -> None:
    """Of 40 draws from one Gaussian the interval covers the distance of the Gaussians nearly always."""
    real = gaussian(4000, np.zeros(3), np.eye(3), 0)
    shift, covering = np.array([0.5, 0, 0]), 0
    for draw in range(40):
        made = shift + np.random.default_rng([9, draw]).normal(size=(400, 3))
        figure = figures(real, made, ["fd"], seed=draw)["fd"]
        covering += figure.low <= 0.25 <= figure.high
        assert (figure.n, figure.low < figure.value < figure.high) == (400, True)
    assert covering >= 33


def test_every_interval_is_around_its_figure(features: tuple[np.ndarray, np.ndarray]) -> None:
    for name, figure in figures(*features, DISTANCES).items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.n == (M if name in SHARES_OF_REAL else N)


def test_every_distance_is_worse_the_further_the_pictures_are() -> None:
    rng = np.random.default_rng(5)
    real, made = rng.normal(size=(300, 8)), rng.normal(size=(200, 8))
    results = [figures(real, made + far, DISTANCES) for far in (0.0, 0.7, 1.4, 3.0)]
    for name in DISTANCES:
        values = [result[name].value for result in results]
        worse = values[::-1] if name in ("fd", "kid", "cmmd") else values
        assert worse == sorted(worse, reverse=True), name
        assert values[0] != values[-1]


def test_same_seed_same_figures(features: tuple[np.ndarray, np.ndarray]) -> None:
    assert figures(*features, DISTANCES, seed=3) == figures(*features, DISTANCES, seed=3)


def test_a_small_reference_is_refused() -> None:
    with pytest.raises(TooFewSamples, match="distance of 12 features needs more than 12 real pictures, there are 12"):
        figures(np.ones((12, 12)), np.ones((30, 12)), ["fd"])
    with pytest.raises(TooFewSamples, match="density and coverage need more than 5 pictures, there are 5"):
        figures(np.ones((12, 12)), np.ones((5, 12)), ["precision"])


def test_a_large_reference_is_subsampled() -> None:
    many = np.arange(2.0 * (MAX_REAL + 10)).reshape(-1, 2)
    chosen = subsample(many, 0)
    assert len(chosen) == MAX_REAL
    assert (np.diff(chosen[:, 0]) > 0).all()
