"""Hash lists of material that nobody may possess. A picture that matches such a list is never written.

A list is a file with one hash per line. The number of hex digits gives the kind of hash: 64 for SHA-256, 40 for SHA-1,
32 for MD5, and 16 for a perceptual hash as computed by data/scorers/phash.py. Empty lines and lines that begin with #
are skipped. The content of the lists is not disclosed: a row says that some list matched the picture, but neither which
list nor how.
"""

import binascii
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from data.errors import RecipeError
from data.lake import storage
from data.pictures.hash_sets import DigestSet, PerceptualHashSet

BLOCK_BYTES = 1 << 21  # bytes of a list that are read at once
CHECK_BYTES = 1 << 16  # bytes that are read to check that a file is a list
EXACT = {64: hashlib.sha256, 40: hashlib.sha1, 32: hashlib.md5}
PERCEPTUAL = 16


class HashLists:
    """The hash lists of a recipe, in memory. A million SHA-256 hashes take 32 MB.

    Args:
        paths: files or URLs of the lists.
        distance: the number of bits in which a perceptual hash may differ from a listed one and still match it.

    Raises:
        RecipeError: a list can't be read, or has a line that is not a hash.

    Attributes:
        perceptual: the perceptual hashes of all lists.
    """

    def __init__(self, paths: tuple[str, ...], distance: int) -> None:
        packed = {digits: bytearray() for digits in (*EXACT, PERCEPTUAL)}
        for path in paths:
            for lines, lines_before in _line_blocks(path, BLOCK_BYTES):
                for digits, hashes in _parse_hashes(path, lines, lines_before):
                    packed[digits] += hashes
        self.perceptual = PerceptualHashSet(packed.pop(PERCEPTUAL), distance)
        self._exact = {digits: DigestSet(digits // 2, hashes) for digits, hashes in packed.items() if hashes}

    def has(self, body: bytes) -> bool:
        """Return whether a list contains an exact hash of these bytes."""
        return any(EXACT[digits](body).digest() in hashes for digits, hashes in self._exact.items())


@lru_cache(maxsize=1)
def read_lists(paths: tuple[str, ...], distance: int) -> HashLists:
    """Read hash lists, once per process."""
    return HashLists(paths, distance)


def check_lists(paths: tuple[str, ...]) -> None:
    """Check the first lines of each list, so that nothing is fetched when a list is unusable.

    Raises:
        RecipeError: a list can't be read, or its first lines are not hashes.
    """
    for path in paths:
        for lines, lines_before in islice(_line_blocks(path, CHECK_BYTES), 1):
            list(_parse_hashes(path, lines, lines_before))


def _line_blocks(path: str, block_bytes: int) -> Iterator[tuple[list[bytes], int]]:
    """Yield the lines of a file in blocks, each with the number of lines before the block."""
    filesystem, file_path = storage.split_url(path)
    try:
        with filesystem.open(file_path, "rb") as file:
            lines_before, rest = 0, b""
            while block := file.read(block_bytes):
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                yield lines, lines_before
                lines_before += len(lines)
            yield [rest], lines_before
    except storage.UNREACHABLE as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise RecipeError(f"the list {path} {reason}. Correct download.forbidden in the recipe") from None


def _parse_hashes(path: str, lines: list[bytes], lines_before: int) -> Iterator[tuple[int, bytes]]:
    """Yield each length of hash in some lines, in hex digits, with the concatenated bytes of its hashes."""
    by_length: dict[int, list[bytes]] = {}
    for line in map(bytes.strip, lines):
        if line and not line.startswith(b"#"):
            by_length.setdefault(len(line), []).append(line)
    try:
        if by_length.keys() - {*EXACT, PERCEPTUAL}:
            raise ValueError
        for digits, hashes in by_length.items():
            yield digits, binascii.unhexlify(b"".join(hashes))
    except ValueError:
        numbered = enumerate(lines, start=lines_before + 1)
        wrong_line = next(number for number, line in numbered if not _is_valid(line.strip()))
        raise RecipeError(
            f"the list {path}, line {wrong_line}: not a hash of 64, 40, 32 or 16 hex digits. "
            "Correct the list, or download.forbidden in the recipe"
        ) from None


def _is_valid(line: bytes) -> bool:
    is_hash = len(line) in (*EXACT, PERCEPTUAL) and not line.lower().strip(b"0123456789abcdef")
    return is_hash or not line or line.startswith(b"#")
