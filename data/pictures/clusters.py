"""Pairs of vectors that are near each other, found by clusters instead of comparing all pairs.

faiss clusters the vectors by k-means, as SemDeDup does. Two near vectors lie in one cluster, or both close to the
border of two; how close follows from their distance. So every near pair is found wherever the centres are, and an
increment, which moves the centres, never changes which pairs are found.
"""

import math
from collections.abc import Iterator

import numpy as np

CENTRES = 2.0  # times the square root of the number of vectors
VECTORS_PER_CENTRE = 64  # that k-means learns from
ITERATIONS = 8
TOLERANCE = 1e-3  # of matrix products, whose last digits depend on their shapes; each candidate is confirmed exactly
MIN_CENTRE_DISTANCE = 1e-2  # closer centres are treated as this far apart: rounding would hide their border


def near_vector_pairs(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Find every pair of vectors whose cosine similarity is at least 1 - `distance`.

    Args:
        vectors: n × size, each of length 1.

    Returns:
        Row numbers of the pairs, pairs × 2, the smaller number first; sorted.
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
    """Cluster vectors by k-means. Returns the centres, and the number of the nearest centre of each vector."""
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
    """Yield candidate rows of one cluster and of another, or of the same one.

    Two vectors at a Euclidean distance of at most `reach` are both among the candidates of one pair of clusters.
    """
    squares = (centres**2).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * centres @ centres.T, MIN_CENTRE_DISTANCE**2))
    # The distance from the border between two clusters to the row of the first that is nearest to it.
    border = np.full(apart.shape, np.inf, np.float32)
    for number, cluster in enumerate(clusters):
        if len(cluster):
            cosines = cluster @ centres.T
            border[number] = ((cosines[:, [number]] - cosines) / apart[number]).min(0)
    for a, b in np.argwhere(np.triu(border + border.T <= reach)).tolist():
        across = (centres[a] - centres[b]) / apart[a, b]
        rows = np.flatnonzero(clusters[a] @ across <= reach - border[b, a])
        yield a, rows, b, rows if a == b else np.flatnonzero(clusters[b] @ -across <= reach - border[a, b])
