"""The order of an epoch and how it is dealt out: pure functions over the files' row counts, without any reading.

An epoch is the positions 0 to n. Which sample lies at a position is decided by the files, the seed and the epoch, never
by ranks or workers. What is left of an epoch is a list of spans of positions; dealing cuts it into equal shares.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UNIT = 128  # rows that are read together: a row group of a published file
Numbers = npt.NDArray[np.int64]
Spans = list[tuple[int, int]]  # positions from, to (not included); disjoint and ascending


class Unit(NamedTuple):
    """Neighbouring rows of one file."""

    file: int
    first: int
    rows: int


class Piece(NamedTuple):
    """Samples that are mixed with each other: the units that hold them, then for each its unit's place and its row."""

    units: list[Unit]
    places: list[int]
    rows: list[int]


@dataclass(frozen=True)
class Order:
    """The samples of one epoch in order: units shuffled, then their samples within blocks of `mix` or a little more."""

    units: npt.NDArray[np.int64]  # unit, (file, first, rows)
    block_units: Numbers  # where each block begins among the units; one more for the end
    block_starts: Numbers  # its first position; one more for the end
    seeds: tuple[int, int] | None  # none: as the rows lie in the files

    @classmethod
    def of(cls, rows: Sequence[int], seed: int, epoch: int, shuffle: bool, mix: int) -> "Order":
        """Of an epoch of files with so many rows each."""
        units = _units(np.asarray(rows, np.int64))
        if shuffle:
            units = units[_permutation(len(units), seed, epoch, 0)]
        starts = np.concatenate([[0], np.cumsum(units[:, 2])])
        blocks = np.flatnonzero(np.diff(starts[:-1] // mix, prepend=-1))
        ends = np.append(blocks, len(units))
        return cls(units, ends, starts[ends], (seed, epoch) if shuffle else None)

    def __len__(self) -> int:
        return int(self.block_starts[-1])

    def pieces(self, spans: Spans) -> Iterator[Piece]:
        """The samples at some positions, in their order."""
        for start, stop in spans:
            block = int(np.searchsorted(self.block_starts, start, "right")) - 1
            while start < stop:
                begin, end = (int(position) for position in self.block_starts[block : block + 2])
                yield self._piece(block, start - begin, min(stop, end) - begin)
                start, block = end, block + 1

    def _piece(self, block: int, start: int, stop: int) -> Piece:
        units = self.units[self.block_units[block] : self.block_units[block + 1]]
        offsets = np.concatenate([[0], np.cumsum(units[:, 2])])
        order = np.arange(offsets[-1]) if self.seeds is None else _permutation(offsets[-1], *self.seeds, block + 1)
        chosen = order[start:stop]
        owners = np.searchsorted(offsets, chosen, "right") - 1
        used, places = np.unique(owners, return_inverse=True)
        rows = chosen - offsets[owners]
        return Piece([Unit(*unit) for unit in units[used].tolist()], places.tolist(), rows.tolist())


def size(spans: Spans) -> int:
    return sum(stop - start for start, stop in spans)


def cut(spans: Spans, start: int, stop: int) -> Spans:
    """The positions from the start-th to the stop-th of those in the spans."""
    kept, passed = [], 0
    for first, last in spans:
        low, high = max(first, first + start - passed), min(last, first + stop - passed)
        if low < high:
            kept.append((low, high))
        passed += last - first
    return kept


def share(spans: Spans, part: int, parts: int, even: bool = False) -> Spans:
    """One of so many shares, which together are all of it; they differ by one at most.

    Even ones do not differ: fewer positions than there are parts, the last ones, are in no share.
    """
    total = size(spans)
    total -= total % parts if even else 0
    return cut(spans, total * part // parts, total * (part + 1) // parts)


def join(shares: Iterable[Spans]) -> Spans:
    """Shares put together again. A position that is in two of them is a ValueError."""
    joined: Spans = []
    for start, stop in sorted(span for spans in shares for span in spans if span[0] < span[1]):
        if joined and start < joined[-1][1]:
            raise ValueError(f"position {start} is in two shares")
        if joined and start == joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _units(rows: Numbers) -> npt.NDArray[np.int64]:
    counts = -(-rows // UNIT)
    file = np.repeat(np.arange(len(rows)), counts)
    first = (np.arange(len(file)) - np.repeat(np.cumsum(counts) - counts, counts)) * UNIT
    return np.stack([file, first, np.minimum(rows[file] - first, UNIT)], axis=1)


def _permutation(n: int, seed: int, epoch: int, which: int) -> Numbers:
    """From numpy's old generator, which is promised never to change: a checkpoint outlives a version of numpy."""
    return np.random.RandomState([seed, epoch, which]).permutation(int(n)).astype(np.int64)
