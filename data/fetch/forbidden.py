"""Lists of hashes of material that nobody may hold, by file: a picture that one names is never written.

One hash a line: 64 hex digits are SHA-256 of the file's bytes, 40 SHA-1, 32 MD5; 16 are a perceptual hash as
scorers/phash.py makes it. Empty lines and what begins with # are passed over. What a list says is told to nobody: a row
says that a list named the picture, and not which, nor how.
"""

import binascii
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

from data.errors import RecipeError
from data.lake import storage
from data.pictures.hash_sets import DigestSet, PerceptualHashSet

BLOCK, FIRST = 1 << 21, 1 << 16  # bytes of a list read at once, and to see whether it is one
EXACT = {64: hashlib.sha256, 40: hashlib.sha1, 32: hashlib.md5}
PERCEPTUAL = 16


class Forbidden:
    """The lists of a recipe, read once a worker."""

    def __init__(self, paths: tuple[str, ...], distance: int) -> None:
        packed = {digits: bytearray() for digits in (*EXACT, PERCEPTUAL)}
        for path in paths:
            for lines, before in _blocks(path, BLOCK):
                for digits, hashes in _parsed(path, lines, before):
                    packed[digits] += hashes
        self.looks = PerceptualHashSet(packed.pop(PERCEPTUAL), distance)
        self._exact = {digits: DigestSet(digits // 2, found) for digits, found in packed.items() if found}

    def names(self, body: bytes) -> bool:
        """Whether a list has the hash of these bytes."""
        return any(EXACT[digits](body).digest() in hashes for digits, hashes in self._exact.items())


@lru_cache(maxsize=1)
def read_lists(paths: tuple[str, ...], distance: int) -> Forbidden:
    return Forbidden(paths, distance)


def check_lists(paths: tuple[str, ...]) -> None:
    """Raise if a list can't be read or begins with what is no hash, before anything is fetched without it."""
    for path in paths:
        for lines, before in islice(_blocks(path, FIRST), 1):
            list(_parsed(path, lines, before))


def _blocks(path: str, size: int) -> Iterator[tuple[list[bytes], int]]:
    """The lines of a file, some at a time, and how many came before."""
    fs, place = storage.split_url(path)
    try:
        with fs.open(place, "rb") as file:
            before, rest = 0, b""
            while part := file.read(size):
                lines = (rest + part).split(b"\n")
                rest = lines.pop()
                yield lines, before
                before += len(lines)
            yield [rest], before
    except storage.UNREACHABLE as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
        raise RecipeError(f"the list {path} {reason}. Correct download.forbidden in the recipe") from None


def _parsed(path: str, lines: list[bytes], before: int) -> Iterator[tuple[int, bytes]]:
    """How many digits the hashes of some lines have, and the bytes of all of them, one after the other."""
    kinds: dict[int, list[bytes]] = {}
    for line in (line.strip() for line in lines):
        if line and not line.startswith(b"#"):
            kinds.setdefault(len(line), []).append(line)
    try:
        if kinds.keys() - {*EXACT, PERCEPTUAL}:
            raise ValueError
        for digits, found in kinds.items():
            yield digits, binascii.unhexlify(b"".join(found))
    except ValueError:
        wrong = next(number for number, line in enumerate(lines, start=before + 1) if not _is_fine(line.strip()))
        raise RecipeError(
            f"the list {path}, line {wrong}: no hash of 64, 40, 32 or 16 hex digits. "
            "Correct the list, or download.forbidden in the recipe"
        ) from None


def _is_fine(line: bytes) -> bool:
    is_hash = len(line) in (*EXACT, PERCEPTUAL) and not line.lower().strip(b"0123456789abcdef")
    return is_hash or not line or line.startswith(b"#")
