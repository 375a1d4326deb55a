"""The sources of a recipe: files of URLs with captions or of pictures with captions, given as fsspec paths or globs.

formats.py reads the files, and ingest.py adds their pairs to the lake.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import fsspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data.errors import LakeNotFound, SourceError, SourceUnreachable
from data.lake import storage
from data.lake.lake import Lake
from data.sources.formats import STORE_ERRORS, can_be_read, format_suffix, peek_rows
from data.sources.presets import PRESETS
from data.sources.rows import LOCATION, Layout

PEEK_ROWS = 100  # rows of each new file that are checked before anything is written
CHECK_THREADS = 16  # files checked at the same time
HIDDEN = re.compile(r"/[._]")  # matches the hidden files that tools keep in a folder
# Entries of a store's file information that change when the file changes. The first entry that is present is used.
TOKEN_KEYS = ("generation", "etag", "ETag", "md5", "mtime", "LastModified", "last_modified", "updated", "created")


class Columns(BaseModel):
    """The names of the source's columns for URLs, captions and so on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = "url"
    caption: str = "caption"
    sha256: str | None = Field(None, description="column with the hash of the picture's bytes, in hex")
    image: str = Field("image", description="column of pictures, as bytes or as Hugging Face writes them")
    extra: tuple[str, ...] | Literal["all"] = Field((), description="further columns to carry along, for criteria")

    @field_validator("extra")
    @classmethod
    def _not_reserved(cls, extra: tuple[str, ...] | Literal["all"]) -> tuple[str, ...] | Literal["all"]:
        if LOCATION in extra:
            raise ValueError(f"{LOCATION} is reserved for the location of pictures. Rename the column in the source")
        return extra


class Source(BaseModel):
    """A file of pairs, several files by glob, or a folder in the layout of Hugging Face's datasets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        description="Parquet, CSV, TSV, JSON lines (also .gz, .zst), webdataset .tar; a path or URL, globs allowed"
    )
    preset: Literal["laion2b", "coyo-700m", "cc3m", "cc12m", "datacomp"] | None = Field(
        None, description="columns of a published set; `columns` overrides them"
    )
    columns: Columns = Columns()
    names: tuple[str, ...] | None = Field(None, description="column names of a CSV or TSV without a header")
    quoted: bool = Field(True, description="whether quotes enclose fields in a CSV or TSV")

    def resolved_from(self, folder: Path) -> "Source":
        """Return the source with its path resolved against a folder, unless the path is absolute or a URL."""
        if fsspec.core.split_protocol(self.path)[0] is not None or Path(self.path).is_absolute():
            return self
        return self.model_copy(update={"path": str(folder / self.path)})

    @property
    def layout(self) -> Layout:
        """Return the columns of the preset, overridden by those in the recipe."""
        base = PRESETS[self.preset] if self.preset else Layout()
        columns = self.columns.model_dump(include=self.columns.model_fields_set)
        csv_options = self.model_dump(include=self.model_fields_set & {"names", "quoted"})
        lenient = base.lenient and not {"sha256", "extra"} & columns.keys()
        return replace(base, **columns, **csv_options, lenient=lenient)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source, as described by its store when the files were listed."""

    url: str
    token: str  # changes when the file changes
    layout: Layout

    @property
    def id(self) -> str:
        """A hash of URL, token and columns. So a file is read again if it has changed, or with other columns."""
        layout = self.layout
        parts = (self.url, self.token, layout.url, layout.caption, layout.sha256, layout.image, layout.names)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def list_files(source: Source) -> list[SourceFile]:
    """List the files of a source, sorted by path.

    Raises:
        SourceError: The source has no files.
        SourceUnreachable: The store does not answer.
    """
    try:
        fs, path = storage.split_url(source.path)
        infos = _file_infos(fs, path)
    except STORE_ERRORS as error:
        raise SourceUnreachable(f"source {source.path} can't be reached: {error or type(error).__name__}") from error
    if infos is None:
        raise SourceError(f"source {source.path} does not exist. Correct sources.path in the recipe")
    if not infos:
        raise SourceError(f"source {source.path} is a folder without Parquet, tar, CSV or JSON lines files")
    layout = source.layout
    return [SourceFile(fs.unstrip_protocol(path), _token(info), layout) for path, info in sorted(infos.items())]


def check_sources(sources: Iterable[Source], lake: Lake | None = None) -> None:
    """Check the first rows of each new file, before anything is written.

    Args:
        lake: Files that this lake has read before are not checked again.

    Raises:
        SourceError: A file can't be read or lacks a column, or all files are empty.
        SourceUnreachable: A store does not answer.
    """
    sources = tuple(sources)
    files = [file for source in sources for file in list_files(source)]
    ingested = ingested_file_ids(lake) if lake else set()
    new = [file for file in files if file.id not in ingested]
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        rows = sum(pool.map(_check_file, new))
    if not rows and len(new) == len(files):
        raise SourceError(f"source {', '.join(source.path for source in sources)} holds no rows")


def open_checked_lake(url: str, sources: Iterable[Source], buckets: int) -> Lake:
    """Check the sources, then open the lake or make it. So a wrong source does not leave an empty lake behind."""
    try:
        lake = Lake.open(url)
    except LakeNotFound:
        check_sources(sources)
        return Lake.make(url, buckets)
    check_sources(sources, lake)
    return lake


def ingested_file_ids(lake: Lake) -> set[str]:
    """Return the ids of the files that were read into the lake."""
    table = lake.find("files")
    return set() if table is None else set(table.dataset().to_table(columns=["id"])["id"].to_pylist())


def _check_file(file: SourceFile) -> int:
    """Count the first rows of a file. Raises SourceError if none of them can be read."""
    rows, rejects = peek_rows(file.url, file.layout, PEEK_ROWS)
    if not rows and rejects:
        raise SourceError(f"source {file.url} can't be read: row {rejects[0].row}: {rejects[0].reason}")
    return rows


def _file_infos(fs: Any, path: str) -> dict[str, dict[str, Any]] | None:
    """Return the store's information on each file, keyed by path, or None if the path does not exist.

    In a folder, only files of one format count: Parquet if there are any, else tars, else text files. The reason is
    that a folder may contain metadata as CSV next to its Parquet files.
    """
    fs.invalidate_cache()
    try:
        info = fs.info(path)
    except FileNotFoundError:
        matches = fs.glob(path, detail=True) if set("*?[") & set(path) else {}
        return {name: info for name, info in matches.items() if info["type"] == "file"} or None
    if info["type"] != "directory":
        return {path: info}
    inside = fs.find(path, detail=True)
    readable = [name for name in inside if can_be_read(name) and not HIDDEN.search(name.removeprefix(path))]
    suffixes = {format_suffix(name) for name in readable}
    for preferred in (".parquet", ".tar"):
        if preferred in suffixes:
            suffixes = {preferred}
    return {name: inside[name] for name in readable if format_suffix(name) in suffixes}


def _token(info: dict[str, Any]) -> str:
    """Return a text that changes when the file changes. It contains the file's size and the first of TOKEN_KEYS."""
    stamps = [str(info[key]) for key in TOKEN_KEYS if info.get(key)]
    if not stamps and info.get("size") is None:
        return uuid.uuid4().hex  # nothing shows whether the file has changed, so it is always read
    return f"{info.get('size')}-{stamps[0] if stamps else ''}"
