"""Finds near-duplicates without comparing every pair of rows, and decides which of them are kept.

Hashes and thumbnails are compared only if they share a key. A key of a hash is one band of its bits. A key of a
thumbnail says on which sides of fixed random planes it is (SimHash). Vectors are compared by clusters (clusters.py).
Whether two rows are found to be alike never depends on other rows, so new rows do not change earlier results. Of two
rows that are alike, the first is kept. A row that is alike only to dropped rows is kept too.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

# Re-encodings and slight crops of a picture stay within this mean difference between thumbnails, in grey levels.
THUMBNAIL_DISTANCE = 3.7
BANDS, BITS = 32, 24  # planes of SimHash; at an angle of 0.2 radians 99.9 % share a band (docs/log.md)
CHUNK = 1 << 16  # pairs compared at once

Pairs = np.ndarray  # n × 2 row numbers, the smaller one first
PairTest = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two lists of rows → for each two of them, are they alike?
PairFinder = Callable[[np.ndarray], Pairs]  # values → the pairs of rows that are alike


def find_leaders(values: np.ndarray, find_pairs: PairFinder) -> np.ndarray:
    """Find the leader of each row: the first kept row that it is alike to, or -1 if the row itself is kept.

    Equal values are passed to `find_pairs` only once, so a placeholder picture that occurs a million times is cheap.
    """
    _, first, inverse = _unique_rows(values)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rows, ranks = first[order], rank[inverse]
    leader = leaders_of_pairs(len(rows), find_pairs(values[rows]))[ranks]
    leader_rows = np.where(leader >= 0, rows[leader], rows[ranks])
    return np.where(leader_rows == np.arange(len(values)), -1, leader_rows)


def near_known(values: np.ndarray, known: np.ndarray, find_pairs: PairFinder) -> np.ndarray:
    """Return an array of bool: for each row, whether it is alike to any of the known values."""
    _, first, inverse = _unique_rows(values)
    pairs = find_pairs(np.concatenate([known, values[first]]))
    across = pairs[(pairs[:, 0] < len(known)) & (pairs[:, 1] >= len(known))]
    matches = np.zeros(len(first), bool)
    matches[across[:, 1] - len(known)] = True
    return matches[inverse]


def _unique_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply numpy's `unique` to rows.

    Returns the distinct rows, the number of the first row equal to each, and each row's index among the distinct rows.
    """
    packed = np.ascontiguousarray(values.reshape(len(values), -1))
    keys = packed.view(np.dtype((np.void, packed.itemsize * packed.shape[1]))).ravel()
    return np.unique(keys, return_index=True, return_inverse=True)


def leaders_of_pairs(count: int, pairs: Pairs) -> np.ndarray:
    """Find, for each of `count` rows, the first kept row that is paired with it, or -1 if the row itself is kept."""
    leaders = np.full(count, -1, np.int64)
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))
    for earlier, later in pairs[order].tolist():
        if leaders[later] < 0 and leaders[earlier] < 0:
            leaders[later] = earlier
    return leaders


def near_hash_pairs(hashes: np.ndarray, distance: int) -> Pairs:
    """Find all pairs of 64-bit hashes that differ in at most `distance` bits.

    The bits are split into `distance` + 1 bands, so that two such hashes have at least one equal band.
    """
    hashes = hashes.astype(np.uint64)
    edges = np.linspace(0, 64, distance + 2).round().astype(int)
    bands = [(hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for low, high in pairwise(edges.tolist())]

    def are_near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.bitwise_count(hashes[a] ^ hashes[b]) <= distance

    return _confirmed_pairs(bands, are_near)


def near_thumbnail_pairs(thumbnails: np.ndarray, distance: float) -> Pairs:
    """Find pairs of thumbnails (n × values, 0 to 255) whose mean absolute difference is at most `distance`."""
    values = thumbnails.astype(np.float32)

    def are_near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(values[a] - values[b]).mean(1) <= distance

    return _confirmed_pairs(_simhash(values - values.mean(1, keepdims=True)), are_near)


def _simhash(vectors: np.ndarray) -> list[np.ndarray]:
    """Return one array of keys per band. A vector's key says on which side of each of the band's planes it is.

    Only the direction of a vector matters, not its length.
    """
    weights = 1 << np.arange(BITS, dtype=np.int64)
    return [(vectors @ planes > 0) @ weights for planes in _planes(vectors.shape[1])]


@lru_cache(maxsize=4)
def _planes(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.standard_normal((size, BITS)).astype(np.float32) for _ in range(BANDS)]


def _confirmed_pairs(keys: list[np.ndarray], are_near: PairTest) -> Pairs:
    """Return the pairs of rows that share at least one key and pass the test. Each pair occurs once; sorted."""
    confirmed = [np.empty((0, 2), np.int64)]
    for key in keys:
        for pairs in _pairs_of_equal_keys(key):
            for start in range(0, len(pairs), CHUNK):
                chunk = pairs[start : start + CHUNK]
                confirmed.append(chunk[are_near(chunk[:, 0], chunk[:, 1])])
    return np.unique(np.concatenate(confirmed), axis=0)


def _pairs_of_equal_keys(key: np.ndarray) -> Iterator[Pairs]:
    """Yield all pairs of rows with the same key: first neighbours in sorted order, then rows two apart, and so on."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    step, places = 1, np.flatnonzero(ordered[1:] == ordered[:-1])
    while len(places):
        yield np.column_stack([order[places], order[places + step]])
        step += 1
        places = places[places + step < len(ordered)]
        places = places[ordered[places] == ordered[places + step]]
