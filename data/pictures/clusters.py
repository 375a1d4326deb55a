"""Finds all pairs of vectors that are near each other, without comparing every pair.

faiss clusters the vectors by k-means, as SemDeDup does. Two near vectors are either in one cluster, or both close to
the border between two clusters. Their distance gives a bound on how close they are to that border. So all near pairs
are found, wherever the cluster centres are. New vectors move the centres, but never change which pairs are found.
"""

import math
from collections.abc import Iterator

import numpy as np

CENTRES = 2.0  # times the square root of the number of vectors
VECTORS_PER_CENTRE = 64  # the most vectors per centre that k-means is trained on
ITERATIONS = 8
TOLERANCE = 1e-3  # for matrix products, whose last digits depend on their shapes; candidates are confirmed exactly
MIN_CENTRE_DISTANCE = 1e-2  # closer centres are treated as this far apart: rounding would hide their border


def near_vector_pairs(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Find every pair of vectors whose cosine similarity is at least 1 - `distance`.

    Args:
        vectors: n × size, each of length 1.

    Returns:
        The row numbers of the pairs (pairs × 2), sorted. In each pair, the smaller number is first.
    """
    candidates = [np.empty((0, 2), np.int64)]
    if not len(vectors):
        return candidates[0]
    vectors = np.ascontiguousarray(vectors, np.float32)
    centres, nearest = _cluster(vectors)
    order = np.argsort(nearest, kind="stable")
    ends = np.searchsorted(nearest[order], np.arange(len(centres)), side="right").tolist()
    starts = [0, *ends[:-1]]
    ordered = vectors[order]
    clusters = [ordered[start:end] for start, end in zip(starts, ends, strict=True)]
    for a, rows, b, others in _candidates(clusters, centres, math.sqrt(2 * distance) + TOLERANCE):
        i, j = np.nonzero(clusters[a][rows] @ clusters[b][others].T >= 1 - distance - TOLERANCE)
        candidates.append(np.column_stack([order[starts[a] + rows[i]], order[starts[b] + others[j]]]))
    pairs = np.concatenate(candidates)
    pairs.sort(axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    return pairs[(vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1) >= 1 - distance - 1e-6]


def _cluster(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cluster vectors by k-means. Returns the centres, and for each vector the number of its nearest centre."""
    import faiss

    count, size = vectors.shape
    kmeans = faiss.Kmeans(
        size,
        max(1, min(count, int(CENTRES * math.sqrt(count)))),
        niter=ITERATIONS,
        seed=1,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=VECTORS_PER_CENTRE,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids), kmeans.assign(vectors)[1]


def _candidates(
    clusters: list[np.ndarray], centres: np.ndarray, reach: float
) -> Iterator[tuple[int, np.ndarray, int, np.ndarray]]:
    """Yield two clusters, or the same cluster twice, each with those of its rows that may be near rows of the other.

    For any two vectors at a Euclidean distance of at most `reach`, one yielded pair of clusters contains both.
    """
    squares = (centres**2).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * centres @ centres.T, MIN_CENTRE_DISTANCE**2))
    # For two clusters a and b: the distance from the border between them to the nearest row of a.
    border = np.full(apart.shape, np.inf, np.float32)
    for number, cluster in enumerate(clusters):
        if len(cluster):
            cosines = cluster @ centres.T
            border[number] = ((cosines[:, [number]] - cosines) / apart[number]).min(0)
    for a, b in np.argwhere(np.triu(border + border.T <= reach)).tolist():
        across = (centres[a] - centres[b]) / apart[a, b]
        rows = np.flatnonzero(clusters[a] @ across <= reach - border[b, a])
        yield a, rows, b, rows if a == b else np.flatnonzero(clusters[b] @ -across <= reach - border[a, b])
