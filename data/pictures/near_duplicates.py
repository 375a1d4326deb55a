"""Duplicates without all-pairs: who is alike, and who of them stays.

Hashes and thumbnails are compared only if they share a key: of hashes the bands that cannot all differ, of thumbnails
the sides of fixed random planes on which they lie (SimHash); vectors by clusters. Who is found like whom never depends
on other rows, so that an increment doesn't change what was found before. Of those alike the first in order stays and
the others don't; a row that is like a dropped one only, stays.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

THUMBNAIL_DISTANCE = (
    3.7  # mean difference of thumbnails in grey levels that two encodings or slight crops of a picture keep
)
BANDS, BITS = 32, 24  # planes of SimHash; at 0.2 radians 99.9 % share a band (docs/log.md)
CHUNK = 1 << 16  # pairs compared at once

Pairs = np.ndarray  # n × 2 places, the earlier first
PairTest = Callable[[np.ndarray, np.ndarray], np.ndarray]
PairFinder = Callable[[np.ndarray], Pairs]


def find_leaders(values: np.ndarray, like: PairFinder) -> np.ndarray:
    """For each row, in order, the first row like it that stays, or -1 for one that stays itself.

    Rows of the same value are one row to `like`: a placeholder that is there a million times costs nothing.
    """
    _, first, inverse = _distinct(values)
    order = np.argsort(first)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows, own = first[order], place[inverse]
    leader = leaders_of_pairs(len(rows), like(values[rows]))[own]
    found = np.where(leader >= 0, rows[leader], rows[own])
    return np.where(found == np.arange(len(values)), -1, found)


def near_known(values: np.ndarray, known: np.ndarray, like: PairFinder) -> np.ndarray:
    """Which rows are like any of some known ones."""
    _, first, inverse = _distinct(values)
    pairs = like(np.concatenate([known, values[first]]))
    across = pairs[(pairs[:, 0] < len(known)) & (pairs[:, 1] >= len(known))]
    found = np.zeros(len(first), bool)
    found[across[:, 1] - len(known)] = True
    return found[inverse]


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """numpy's unique over rows: keys, the first row of each, and the key of each row."""
    packed = np.ascontiguousarray(values.reshape(len(values), -1))
    keys = packed.view(np.dtype((np.void, packed.itemsize * packed.shape[1]))).ravel()
    return np.unique(keys, return_index=True, return_inverse=True)


def leaders_of_pairs(count: int, alike: Pairs) -> np.ndarray:
    """For each row its first like that stays, or -1 for one that stays itself. Rows are in order."""
    leaders = np.full(count, -1, np.int64)
    order = np.lexsort((alike[:, 0], alike[:, 1]))
    for earlier, later in alike[order].tolist():
        if leaders[later] < 0 and leaders[earlier] < 0:
            leaders[later] = earlier
    return leaders


def near_hash_pairs(hashes: np.ndarray, distance: int) -> Pairs:
    """Pairs of 64-bit hashes at most so many bits apart: of distance + 1 bands one must be the same."""
    hashes = hashes.astype(np.uint64)
    edges = np.linspace(0, 64, distance + 2).round().astype(int)
    keys = [(hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for low, high in pairwise(edges.tolist())]

    def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.bitwise_count(hashes[a] ^ hashes[b]) <= distance

    return _confirmed(keys, near)


def near_thumbnail_pairs(thumbnails: np.ndarray, distance: float) -> Pairs:
    """Pairs of thumbnails (n × values, 0 to 255) whose mean difference is at most `distance`."""
    values = thumbnails.astype(np.float32)

    def near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(values[a] - values[b]).mean(1) <= distance

    return _confirmed(_sides(values - values.mean(1, keepdims=True)), near)


def _sides(vectors: np.ndarray) -> list[np.ndarray]:
    """A key a band: on which sides of its planes each vector lies. The direction counts, not the length."""
    weights = 1 << np.arange(BITS, dtype=np.int64)
    return [(vectors @ planes > 0) @ weights for planes in _planes(vectors.shape[1])]


@lru_cache(maxsize=4)
def _planes(size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.standard_normal((size, BITS)).astype(np.float32) for _ in range(BANDS)]


def _confirmed(keys: list[np.ndarray], near: PairTest) -> Pairs:
    found = [np.empty((0, 2), np.int64)]
    for key in keys:
        for pairs in _sharing(key):
            for at in range(0, len(pairs), CHUNK):
                some = pairs[at : at + CHUNK]
                found.append(some[near(some[:, 0], some[:, 1])])
    return np.unique(np.concatenate(found), axis=0)


def _sharing(key: np.ndarray) -> Iterator[Pairs]:
    """Every pair of rows with the same key: neighbours in its order, then those two apart, and so on."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    step, at = 1, np.flatnonzero(ordered[1:] == ordered[:-1])
    while len(at):
        yield np.column_stack([order[at], order[at + step]])
        step += 1
        at = at[at + step < len(ordered)]
        at = at[ordered[at] == ordered[at + step]]
