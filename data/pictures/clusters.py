"""Vectors that are near each other, found by clusters and without all-pairs.

faiss clusters them by k-means, as SemDeDup does. Two that are near lie in one cluster, or by the border of two, and how
close to it follows from how near they are. So every pair is found, wherever the centres are: an increment, which moves
them, never changes what was found before.
"""

import math
from collections.abc import Iterator

import numpy as np

CENTRES = 2.0  # times the root of the number of vectors
A_CENTRE = 64  # vectors that a centre is learnt from
ROUNDS = 8
SLACK = 1e-3  # of products whose last digits depend on their shapes; what they find is confirmed one by one
CLOSEST = 1e-2  # centres: their border is taken as if they were so far apart, as rounding would hide closer ones


def near_vector_pairs(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Every pair of rows (n × 2, the smaller first) of vectors of length 1 whose cosine is at least 1 - `distance`."""
    found = [np.empty((0, 2), np.int64)]
    if not len(vectors):
        return found[0]
    vectors = np.ascontiguousarray(vectors, np.float32)
    centres, nearest = _centres(vectors)
    order = np.argsort(nearest, kind="stable")
    ends = np.searchsorted(nearest[order], np.arange(len(centres)), side="right").tolist()
    starts = [0, *ends[:-1]]
    ordered = vectors[order]
    clusters = [ordered[start:end] for start, end in zip(starts, ends, strict=True)]
    for a, rows, b, others in _candidates(clusters, centres, math.sqrt(2 * distance) + SLACK):
        i, j = np.nonzero(clusters[a][rows] @ clusters[b][others].T >= 1 - distance - SLACK)
        found.append(np.column_stack([order[starts[a] + rows[i]], order[starts[b] + others[j]]]))
    pairs = np.concatenate(found)
    pairs.sort(axis=1)
    pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    return pairs[(vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1) >= 1 - distance - 1e-6]


def _centres(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centres of clusters, and which is nearest to each vector."""
    import faiss

    count, size = vectors.shape
    kmeans = faiss.Kmeans(
        size,
        max(1, min(count, int(CENTRES * math.sqrt(count)))),
        niter=ROUNDS,
        seed=1,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=A_CENTRE,
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids), kmeans.assign(vectors)[1]


def _candidates(
    clusters: list[np.ndarray], centres: np.ndarray, reach: float
) -> Iterator[tuple[int, np.ndarray, int, np.ndarray]]:
    """Rows of a cluster and rows of another, or of itself: two within reach of each other come up in one of these."""
    squares = (centres**2).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * centres @ centres.T, CLOSEST**2))
    first = np.full(apart.shape, np.inf, np.float32)  # how far from the border with another cluster its first row is
    for at, cluster in enumerate(clusters):
        if len(cluster):
            cosines = cluster @ centres.T
            first[at] = ((cosines[:, [at]] - cosines) / apart[at]).min(0)
    for a, b in np.argwhere(np.triu(first + first.T <= reach)).tolist():
        across = (centres[a] - centres[b]) / apart[a, b]
        rows = np.flatnonzero(clusters[a] @ across <= reach - first[b, a])
        yield a, rows, b, rows if a == b else np.flatnonzero(clusters[b] @ -across <= reach - first[a, b])
