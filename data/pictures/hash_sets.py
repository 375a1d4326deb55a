"""Sets of hashes that every body is held against: exact ones, and perceptual ones within a distance.

A set takes the bytes of its hashes and no more (32 MB a million of SHA-256), and is asked in microseconds; a perceptual
one in about a millisecond a million.
"""

from collections.abc import Iterable

import numpy as np

BLOCK = 1 << 18  # perceptual hashes compared at once


class DigestSet:
    """Hashes of one width, in sorted order; `packed` is all of them one after the other, and is kept and sorted."""

    def __init__(self, width: int, packed: bytearray) -> None:
        self._values = np.frombuffer(packed, f"S{width}")
        self._values.sort()

    @classmethod
    def from_hex(cls, width: int, hexes: Iterable[str]) -> "DigestSet":
        return cls(width, bytearray.fromhex("".join(hexes)))

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, digest: bytes) -> bool:
        wanted = np.array(digest, self._values.dtype)
        place = int(self._values.searchsorted(wanted))
        return place < len(self) and bool(self._values[place] == wanted[()])


class PerceptualHashSet:
    """Perceptual hashes of 64 bits; one is like another that differs in few of them."""

    def __init__(self, packed: bytes | bytearray, distance: int) -> None:
        self._values = np.frombuffer(packed, ">u8").astype(np.uint64)
        self._distance = distance

    @classmethod
    def from_hex(cls, hexes: Iterable[str], distance: int) -> "PerceptualHashSet":
        return cls(bytes.fromhex("".join(hexes)), distance)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, hash: int) -> bool:
        parts = (self._values[at : at + BLOCK] for at in range(0, len(self), BLOCK))
        return any(np.bitwise_count(part ^ np.uint64(hash)).min() <= self._distance for part in parts)
