"""Reads evaluation sets: the pictures and captions that a dataset must not contain.

A set consists of picture files, Parquet files with an `image` or a `caption` column (as in published datasets), or text
files with one caption per line. It is named by a folder, a file or a glob, on any store that fsspec supports. Sets are
small, so each process reads them whole, and only once.
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
AS_KEPT = PictureSettings(image_size=512)  # so that sets are compared in the form in which a lake keeps pictures


@dataclass(frozen=True)
class HoldoutSet:
    """Evaluation sets in memory: thumbnails (n 192) and perceptual hashes (n) of their pictures, and their captions."""

    thumbnails: np.ndarray
    hashes: np.ndarray
    captions: tuple[str, ...]


def list_set_files(sets: tuple[str, ...]) -> list[tuple[str, int]]:
    """List the files of evaluation sets with their sizes in bytes, in the order of the sets.

    Raises:
        SourceError: a set does not exist or can't be reached.
    """
    sized_files = []
    for url in sets:
        try:
            fs, path = storage.split_url(url)
            files = fs.find(path, detail=True) if fs.isdir(path) else fs.glob(path, detail=True)
        except storage.UNREACHABLE as error:
            raise SourceError(f"the set {url} can't be reached: {error or type(error).__name__}") from None
        if not files:
            raise SourceError(f"the set {url} does not exist. Correct select.holdout.sets in the recipe")
        sized_files += [(fs.unstrip_protocol(name), int(info["size"])) for name, info in sorted(files.items())]
    return sized_files


@lru_cache(maxsize=4)
def read_holdout(files: tuple[tuple[str, int], ...]) -> HoldoutSet:
    """Read evaluation sets. The results are cached in the process.

    Args:
        files: the result of `list_set_files`. Sizes are part of the cache key: a file that changed size is read again.

    Raises:
        SourceError: a file or a picture in it can't be read.
    """
    scorer, looks, captions = PerceptualHash(), [], []
    for file, _ in files:
        for picture, caption in _entries(file):
            if picture is not None:
                try:
                    looks.append(scorer.look(decode(prepare(picture, AS_KEPT).bytes)))
                except PictureError as error:
                    raise SourceError(f"{file} holds a picture that can't be read: {error}") from None
            if caption is not None:
                captions.append(caption)
    thumbnails = np.frombuffer(b"".join(look["thumbnail"] for look in looks), np.uint8).reshape(len(looks), -1)
    hashes = np.array([int(look["hash"], 16) for look in looks], np.uint64)
    return HoldoutSet(thumbnails, hashes, tuple(captions))


def _entries(file: str) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield the entries of one file, each with a picture, a caption or both."""
    ending = PurePosixPath(file).suffix.lower()
    try:
        content = storage.read(file)
    except storage.UNREACHABLE as error:
        raise SourceError(f"{file} can't be read: {error}") from None
    if ending in PICTURES:
        yield content, None
    elif ending == ".parquet":
        yield from _rows(file, content)
    elif ending == ".txt":
        yield from ((None, line) for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    else:
        raise SourceError(
            f"{file} can't be read as an evaluation set: use pictures, .parquet or .txt. Correct select.holdout.sets"
        )


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
