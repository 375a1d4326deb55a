"""Evaluation sets: the pictures and captions that a dataset must not hold, read from files of one's own.

A set is picture files, Parquet files with an `image` or a `caption` column (as published datasets have them), or text
files of a caption a line; globs over any fsspec URL. Sets are small: they are read whole, and looked at once a process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import SourceError
from data.lake import storage
from data.pictures.header import PictureError
from data.pictures.prepare import PictureSettings, decode, prepare
from data.scorers.phash import PerceptualHash

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
AS_KEPT = PictureSettings(image_size=512)


@dataclass(frozen=True)
class Known:
    """What is held out: thumbnails and perceptual hashes of pictures (n × 192, n), and captions."""

    thumbnails: np.ndarray
    hashes: np.ndarray
    captions: tuple[str, ...]


def files_of(sets: tuple[str, ...]) -> list[tuple[str, int]]:
    """The files of some sets with their sizes, in order; an error where there is none."""
    found = []
    for one in sets:
        try:
            fs, path = storage.split_url(one)
            files = fs.find(path, detail=True) if fs.isdir(path) else fs.glob(path, detail=True)
        except storage.UNREACHABLE as error:
            raise SourceError(f"the set {one} can't be reached: {error or type(error).__name__}") from None
        if not files:
            raise SourceError(f"the set {one} does not exist. Correct select.holdout.sets in the recipe")
        found += [(fs.unstrip_protocol(name), int(info["size"])) for name, info in sorted(files.items())]
    return found


@lru_cache(maxsize=4)
def known_of(files: tuple[tuple[str, int], ...]) -> Known:
    scorer, seen, captions = PerceptualHash(), [], []
    for file, _ in files:
        for picture, caption in _entries(file):
            if picture is not None:
                try:
                    seen.append(scorer.look(decode(prepare(picture, AS_KEPT).bytes)))
                except PictureError as error:
                    raise SourceError(f"{file} holds a picture that can't be read: {error}") from None
            if caption is not None:
                captions.append(caption)
    thumbnails = np.frombuffer(b"".join(one["thumbnail"] for one in seen), np.uint8).reshape(len(seen), -1)
    hashes = np.array([int(one["hash"], 16) for one in seen], np.uint64)
    return Known(thumbnails, hashes, tuple(captions))


def _entries(file: str) -> Iterator[tuple[bytes | None, str | None]]:
    """The pictures and captions of one file, either of which may be missing."""
    kind = PurePosixPath(file).suffix.lower()
    try:
        content = storage.read(file)
    except storage.UNREACHABLE as error:
        raise SourceError(f"{file} can't be read: {error}") from None
    if kind in PICTURES:
        yield content, None
    elif kind == ".parquet":
        yield from _rows(file, content)
    elif kind == ".txt":
        yield from ((None, line) for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    else:
        raise SourceError(f"{file} is no evaluation set: pictures, .parquet and .txt are. Correct select.holdout.sets")


def _rows(file: str, content: bytes) -> Iterator[tuple[bytes | None, str | None]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except pa.ArrowException as error:
        raise SourceError(f"{file} can't be read: {error}") from None
    columns = [name for name in ("image", "caption") if name in table.column_names]
    if not columns:
        raise SourceError(f"{file} has neither an image nor a caption column; it has {', '.join(table.column_names)}")
    for row in table.select(columns).to_pylist():
        image: Any = row.get("image")
        yield image["bytes"] if isinstance(image, dict) else image, row.get("caption")
