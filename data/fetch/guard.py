"""Decides whether a fetched body is a picture, is the expected picture, and may be kept."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.fetch.blocklist import Blocklist, read_blocklist
from data.fetch.forbidden import HashLists, read_lists
from data.lake.lake import Lake
from data.pictures.header import PictureError
from data.pictures.phash import perceptual_hash
from data.pictures.prepare import Picture, PictureSettings, decode, prepare

CROPPING_MODES = ("center_crop", "border")  # resize modes that change the perceptual hash
UNCROPPED = {
    "image_size": 256,
    "resize_mode": "keep_ratio_largest",
    "resize_only_if_bigger": True,
    "encode_format": "png",
}

Outcome = tuple[str, str | None, Picture | None]  # status, error text, the picture to keep
FORBIDDEN: Outcome = ("forbidden", "a list of forbidden material names the picture", None)
BLOCKED: Outcome = ("blocked", "the blocklist names the picture", None)


@dataclass(frozen=True, slots=True)
class Guard:
    """The lists against which every fetched body is checked."""

    blocklist: Blocklist
    forbidden: HashLists

    @classmethod
    def of(cls, lake: Lake, lists: tuple[str, ...], distance: int) -> "Guard":
        """Read the lake's newest blocklist and the given hash lists. Both are cached in the process.

        Args:
            lake: the lake.
            lists: files of hashes, see forbidden.py.
            distance: the number of bits in which a perceptual hash may differ from a listed one and still match it.
        """
        return cls(read_blocklist(lake, distance), read_lists(lists, distance))

    def check(self, pair: dict[str, Any], body: bytes, settings: PictureSettings) -> Outcome:
        """Check a pair's body against the lists and the expected hash, and prepare its picture.

        Returns:
            The status (`ok`, `unchanged`, `changed`, `forbidden`, `blocked`, or that of a `PictureError`), the error
            text, and the picture if it is to be kept.
        """
        expected = expected_sha256(pair)
        is_expected = expected is None or hashlib.sha256(body).hexdigest() == expected
        if pair["picture"] and is_expected:
            return "unchanged", None, None
        if self.forbidden.has(body):
            return FORBIDDEN
        if self.blocklist.has_body(body):
            return BLOCKED
        if not is_expected and has_source_hash(pair):
            return "changed", "the bytes do not have the sha256 that the source gives", None
        try:
            picture = prepare(body, settings)
            for hash in self._perceptual_hashes(picture, body, settings):
                if hash in self.forbidden.perceptual:
                    return FORBIDDEN
                if hash in self.blocklist.perceptual:
                    return BLOCKED
        except PictureError as error:
            return error.status, str(error), None
        return "ok", None, picture

    def _perceptual_hashes(self, picture: Picture, body: bytes, settings: PictureSettings) -> Iterator[int]:
        """Yield the perceptual hash of the kept picture and, if it was cropped, that of the uncropped picture."""
        if not len(self.forbidden.perceptual) and not len(self.blocklist.perceptual):
            return
        yield perceptual_hash(decode(picture.bytes))
        if settings.resize_mode in CROPPING_MODES:
            yield perceptual_hash(decode(prepare(body, settings.model_copy(update=UNCROPPED)).bytes))


def has_source_hash(pair: dict[str, Any]) -> bool:
    """Return whether the pair's source gives a SHA-256.

    The SHA-256 of a pair that replaces another pair is not from the source: it records the bytes that were fetched.
    """
    return bool(pair["sha256"]) and not pair["replaces"]


def expected_sha256(pair: dict[str, Any]) -> str | None:
    """Return the SHA-256 that a pair's bytes should have, or None if it is not known.

    It is the source's hash, or else the hash of the pair's picture, or else the one recorded in the pair's row.
    """
    sha256 = pair["sha256"] if has_source_hash(pair) else pair["picture"] or pair["sha256"]
    return sha256.strip().lower() if sha256 else None
