"""Defines the order of samples in an epoch, and divides its positions among ranks and workers. Reads no files.

An epoch of n samples has the positions 0 to n - 1. The sample at a position depends only on the row counts of the
files, the seed and the epoch, and not on the number of ranks and workers. Positions that have not been read yet are
stored as a list of spans. Spans can be cut into contiguous shares of equal size, and joined again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UNIT_ROWS = 128  # rows that are read together, the size of a row group in a published file
IntArray = npt.NDArray[np.int64]
Spans = list[tuple[int, int]]  # half-open ranges of positions, disjoint and ascending


class Unit(NamedTuple):
    """Neighbouring rows of one file that are read together."""

    file: int  # index of the file
    first: int  # first row
    rows: int


class Piece(NamedTuple):
    """Consecutive samples of one block: the units to read, and the position of each sample in these units."""

    units: list[Unit]
    unit_indices: list[int]  # for each sample, the index of its unit in `units`
    rows: list[int]  # for each sample, its row within its unit


@dataclass(frozen=True)
class Order:
    """The order of one epoch's samples. Units are shuffled, and then samples in blocks of about `mix` samples."""

    units: IntArray  # units x (file, first row, rows)
    block_units: IntArray  # index of each block's first unit, then the number of units
    block_starts: IntArray  # first position of each block, then the number of positions
    seeds: tuple[int, int] | None  # seed and epoch; None if samples stay in the order of the files

    @classmethod
    def of_epoch(cls, file_rows: Sequence[int], seed: int, epoch: int, shuffle: bool, mix: int) -> "Order":
        """Make the order of an epoch.

        Args:
            file_rows: the number of rows in each file.
            seed: the seed of the shuffle, which decides the order together with `epoch`.
            epoch: the epoch's number, from 0.
            shuffle: False keeps the order of the files and of their rows.
            mix: samples per block. Blocks contain whole units, so they can be larger by less than one unit.
        """
        units = _split_into_units(np.asarray(file_rows, np.int64))
        if shuffle:
            units = units[_permutation(len(units), seed, epoch, 0)]
        starts = np.concatenate([[0], np.cumsum(units[:, 2])])
        first_units = np.flatnonzero(np.diff(starts[:-1] // mix, prepend=-1))
        block_units = np.append(first_units, len(units))
        return cls(units, block_units, starts[block_units], (seed, epoch) if shuffle else None)

    def __len__(self) -> int:
        """The number of samples."""
        return int(self.block_starts[-1])

    def pieces(self, spans: Spans) -> Iterator[Piece]:
        """Yield the samples at the positions in some spans, in order. Each piece is within one block."""
        for start, stop in spans:
            block = int(np.searchsorted(self.block_starts, start, "right")) - 1
            while start < stop:
                block_start, block_end = (int(position) for position in self.block_starts[block : block + 2])
                yield self._piece(block, start - block_start, min(stop, block_end) - block_start)
                start, block = block_end, block + 1

    def _piece(self, block: int, start: int, stop: int) -> Piece:
        """Return the samples from `start` to `stop` of a block, counted from the start of the block."""
        units = self.units[self.block_units[block] : self.block_units[block + 1]]
        offsets = np.concatenate([[0], np.cumsum(units[:, 2])])
        order = np.arange(offsets[-1]) if self.seeds is None else _permutation(offsets[-1], *self.seeds, block + 1)
        samples = order[start:stop]
        sample_units = np.searchsorted(offsets, samples, "right") - 1
        used, unit_indices = np.unique(sample_units, return_inverse=True)
        rows = samples - offsets[sample_units]
        return Piece([Unit(*unit) for unit in units[used].tolist()], unit_indices.tolist(), rows.tolist())


def count_positions(spans: Spans) -> int:
    """Return the number of positions in some spans."""
    return sum(stop - start for start, stop in spans)


def slice_spans(spans: Spans, start: int, stop: int) -> Spans:
    """Return the positions with index `start` to `stop` (excluded) among all positions in the spans.

    Example:
        >>> slice_spans([(0, 3), (10, 20)], 2, 5)
        [(2, 3), (10, 12)]
    """
    selected, passed = [], 0
    for first, last in spans:
        low, high = max(first, first + start - passed), min(last, first + stop - passed)
        if low < high:
            selected.append((low, high))
        passed += last - first
    return selected


def share_of_spans(spans: Spans, part: int, parts: int, drop_remainder: bool = False) -> Spans:
    """Split the positions into `parts` contiguous shares of nearly equal size, and return share number `part`.

    Shares are disjoint, together contain every position, and differ in size by at most one. With `drop_remainder`, all
    shares have the same size. Then the last positions, fewer than `parts`, are in none of them.
    """
    total = count_positions(spans)
    total -= total % parts if drop_remainder else 0
    return slice_spans(spans, total * part // parts, total * (part + 1) // parts)


def join_spans(shares: Iterable[Spans]) -> Spans:
    """Join several shares into as few spans as possible.

    Raises:
        ValueError: a position is in two shares.
    """
    joined: Spans = []
    for start, stop in sorted(span for spans in shares for span in spans if span[0] < span[1]):
        if joined and start < joined[-1][1]:
            raise ValueError(f"position {start} is in two shares")
        if joined and start == joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def _split_into_units(file_rows: IntArray) -> IntArray:
    """Split each file's rows into units of UNIT_ROWS. The last unit of a file may be shorter.

    Returns:
        units x (file, first row, rows)
    """
    counts = -(-file_rows // UNIT_ROWS)
    file = np.repeat(np.arange(len(file_rows)), counts)
    first = (np.arange(len(file)) - np.repeat(np.cumsum(counts) - counts, counts)) * UNIT_ROWS
    return np.stack([file, first, np.minimum(file_rows[file] - first, UNIT_ROWS)], axis=1)


def _permutation(n: int, seed: int, epoch: int, stream: int) -> IntArray:
    """Return a permutation from numpy's legacy generator. This generator is the same in all versions of numpy.

    So a checkpoint can be used with a later version.
    """
    return np.random.RandomState([seed, epoch, stream]).permutation(int(n)).astype(np.int64)
