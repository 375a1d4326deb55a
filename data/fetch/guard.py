"""What stands between a fetched body and the lake: whether it is a picture, the one that was meant, and one that may be
kept.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.fetch.blocklist import Blocklist, read_blocklist
from data.fetch.forbidden import Forbidden, read_lists
from data.lake.lake import Lake
from data.pictures.phash import perceptual_hash
from data.pictures.prepare import Picture, PictureError, PictureSettings, decode, prepare

CUTTING = ("center_crop", "border")  # resize modes after which a picture has another perceptual hash
WHOLE = {"image_size": 256, "resize_mode": "keep_ratio_largest", "resize_only_if_bigger": True, "encode_format": "png"}


@dataclass(frozen=True, slots=True)
class Guard:
    blocklist: Blocklist
    forbidden: Forbidden

    @classmethod
    def of(cls, lake: Lake, lists: tuple[str, ...], distance: int) -> "Guard":
        """The lake's newest blocklist, and the lists; kept from shard to shard."""
        return cls(read_blocklist(lake, distance), read_lists(lists, distance))

    def look(
        self, pair: dict[str, Any], body: bytes, settings: PictureSettings
    ) -> tuple[str, str | None, Picture | None]:
        """What a pair's body is worth: a status, the reason in words, and the picture where it is one to keep."""
        expected = expected_sha256(pair)
        same = expected is None or hashlib.sha256(body).hexdigest() == expected
        if pair["picture"] and same:
            return "unchanged", None, None
        if self.forbidden.names(body):
            return FORBIDDEN
        if self.blocklist.names_body(body):
            return BLOCKED
        if not same and is_named(pair):
            return "changed", "the bytes are not those that the list names", None
        try:
            picture = prepare(body, settings)
            for hash in self._hashes(picture, body, settings):
                if hash in self.forbidden.looks:
                    return FORBIDDEN
                if hash in self.blocklist.looks:
                    return BLOCKED
        except PictureError as error:
            return error.status, str(error), None
        return "ok", None, picture

    def _hashes(self, picture: Picture, body: bytes, settings: PictureSettings) -> Iterator[int]:
        """The perceptual hashes by which a picture may be known: as kept, and whole where only a part is kept."""
        if not len(self.forbidden.looks) and not len(self.blocklist.looks):
            return
        yield perceptual_hash(decode(picture.bytes))
        if settings.resize_mode in CUTTING:
            yield perceptual_hash(decode(prepare(body, settings.model_copy(update=WHOLE)).bytes))


FORBIDDEN = ("forbidden", "a list of what nobody may hold names the picture", None)
BLOCKED = ("blocked", "the blocklist names the picture", None)


def is_named(pair: dict[str, Any]) -> bool:
    """Whether the pair's source says which bytes it means; a pair that replaces another only says which it got."""
    return bool(pair["sha256"]) and not pair["replaces"]


def expected_sha256(pair: dict[str, Any]) -> str | None:
    """The hash of the bytes that a pair is about, as far as that is known."""
    said = pair["sha256"] if is_named(pair) else pair["picture"] or pair["sha256"]
    return said.strip().lower() if said else None
