"""Sets of known hashes: cryptographic hashes for exact lookup, and perceptual hashes for lookup within a distance.

In memory, a set is as large as its hashes: 32 MB for a million SHA-256 hashes. An exact lookup takes microseconds. A
lookup in a perceptual set takes about a millisecond per million hashes.
"""

from collections.abc import Iterable

import numpy as np

BLOCK = 1 << 18  # perceptual hashes compared at once


class DigestSet:
    """A set of cryptographic hashes of the same width. `digest in digests` is an exact lookup.

    Args:
        width: Bytes per hash.
        packed: All hashes, concatenated. The set keeps this buffer, and sorts it in place.
    """

    def __init__(self, width: int, packed: bytearray) -> None:
        self._values = np.frombuffer(packed, f"S{width}")
        self._values.sort()

    @classmethod
    def from_hex(cls, width: int, hexes: Iterable[str]) -> "DigestSet":
        """Make a set from hashes that are written in hex."""
        return cls(width, bytearray.fromhex("".join(hexes)))

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, digest: bytes) -> bool:
        wanted = np.array(digest, self._values.dtype)
        place = int(self._values.searchsorted(wanted))
        return place < len(self) and bool(self._values[place] == wanted[()])


class PerceptualHashSet:
    """A set of 64-bit perceptual hashes. `hash in hashes` is true if one differs from it in at most `distance` bits.

    Args:
        packed: All hashes, concatenated, big-endian.
    """

    def __init__(self, packed: bytes | bytearray, distance: int) -> None:
        self._values = np.frombuffer(packed, ">u8").astype(np.uint64)
        self._distance = distance

    @classmethod
    def from_hex(cls, hexes: Iterable[str], distance: int) -> "PerceptualHashSet":
        """Make a set from hashes that are written in hex, with 16 digits each."""
        return cls(bytes.fromhex("".join(hexes)), distance)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, hash: int) -> bool:
        blocks = (self._values[start : start + BLOCK] for start in range(0, len(self), BLOCK))
        return any(np.bitwise_count(block ^ np.uint64(hash)).min() <= self._distance for block in blocks)
