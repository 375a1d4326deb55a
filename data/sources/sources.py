"""Where pairs come from: files of URLs and captions, or of pictures with captions, by glob over any fsspec URL.

How a file is read lies in formats.py, how its pairs get into the lake in ingest.py.
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

PEEK_ROWS = 100  # rows of a file, before anything is written
CHECK_THREADS = 16  # files that are looked at
HIDDEN = re.compile(r"/[._]")  # in a folder: what tools keep there for themselves
TOKEN_KEYS = ("generation", "etag", "ETag", "md5", "mtime", "LastModified", "last_modified", "updated", "created")


class Columns(BaseModel):
    """Which columns of the source hold what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = "url"
    caption: str = "caption"
    sha256: str | None = Field(None, description="of the picture's bytes at its URL, in hex")
    image: str = Field("image", description="pictures that come along, as bytes or as Hugging Face writes them")
    extra: tuple[str, ...] | Literal["all"] = Field((), description="columns to carry through, to select on")

    @field_validator("extra")
    @classmethod
    def _ours(cls, extra: tuple[str, ...] | Literal["all"]) -> tuple[str, ...] | Literal["all"]:
        if LOCATION in extra:
            raise ValueError(f"{LOCATION} says where pictures lie, no source may say it")
        return extra


class Source(BaseModel):
    """A file of pairs, many by glob, or a folder of them as Hugging Face keeps its datasets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        description="Parquet, CSV, TSV, JSON lines (also .gz, .zst), webdataset .tar; a path or URL, globs allowed"
    )
    preset: Literal["laion2b", "coyo-700m", "cc3m", "cc12m", "datacomp"] | None = Field(
        None, description="a published schema; `columns` says what differs"
    )
    columns: Columns = Columns()
    names: tuple[str, ...] | None = Field(None, description="of the columns of a CSV or TSV that has no header")
    quoted: bool = Field(True, description="whether quotes in a CSV or TSV hold a field together")

    def resolved_from(self, folder: Path) -> "Source":
        """The same source with a relative path looked up from a folder."""
        if fsspec.core.split_protocol(self.path)[0] is not None or Path(self.path).is_absolute():
            return self
        return self.model_copy(update={"path": str(folder / self.path)})

    @property
    def layout(self) -> Layout:
        """What the preset says, and what the recipe says otherwise."""
        base = PRESETS[self.preset] if self.preset else Layout()
        columns = self.columns.model_dump(include=self.columns.model_fields_set)
        own = self.model_dump(include=self.model_fields_set & {"names", "quoted"})
        lenient = base.lenient and not {"sha256", "extra"} & columns.keys()
        return replace(base, **columns, **own, lenient=lenient)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source, as its store described it when it was listed."""

    url: str
    token: str  # changes when the file does
    layout: Layout

    @property
    def id(self) -> str:
        """A file that changed is another one, and so is one that is read by other columns."""
        layout = self.layout
        parts = (self.url, self.token, layout.url, layout.caption, layout.sha256, layout.image, layout.names)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def list_files(source: Source) -> list[SourceFile]:
    """The files of a source, in order; an error where there is none."""
    try:
        fs, path = storage.split_url(source.path)
        found = _listed(fs, path)
    except STORE_ERRORS as error:
        raise SourceUnreachable(f"source {source.path} can't be reached: {error or type(error).__name__}") from error
    if found is None:
        raise SourceError(f"source {source.path} does not exist. Correct sources.path in the recipe")
    if not found:
        raise SourceError(f"source {source.path} is a folder without Parquet, tar, CSV or JSON lines files")
    layout = source.layout
    return [SourceFile(fs.unstrip_protocol(path), _token(info), layout) for path, info in sorted(found.items())]


def check_sources(sources: Iterable[Source], lake: Lake | None = None) -> None:
    """Raise before anything is written if a file can't be read, lacks a column, or if all are empty.

    Looks at the first rows of each file that the lake, if there is one, doesn't know yet.
    """
    sources = tuple(sources)
    files = [file for source in sources for file in list_files(source)]
    known = ingested_file_ids(lake) if lake else set()
    new = [file for file in files if file.id not in known]
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        rows = sum(pool.map(_look, new))
    if not rows and len(new) == len(files):
        raise SourceError(f"source {', '.join(source.path for source in sources)} holds no rows")


def open_checked_lake(url: str, sources: Iterable[Source], buckets: int) -> Lake:
    """The lake that sources are read into, made after they have shown that they can serve."""
    try:
        lake = Lake.open(url)
    except LakeNotFound:
        check_sources(sources)
        return Lake.make(url, buckets)
    check_sources(sources, lake)
    return lake


def ingested_file_ids(lake: Lake) -> set[str]:
    """The ids of the files that were read."""
    table = lake.find("files")
    return set() if table is None else set(table.dataset().to_table(columns=["id"])["id"].to_pylist())


def _look(file: SourceFile) -> int:
    """How many rows begin a file; an error where none of them can be read."""
    rows, rejects = peek_rows(file.url, file.layout, PEEK_ROWS)
    if not rows and rejects:
        raise SourceError(f"source {file.url} can't be read: row {rejects[0].row}: {rejects[0].reason}")
    return rows


def _listed(fs: Any, path: str) -> dict[str, dict[str, Any]] | None:
    """Files with what the store says of them; None where there is nothing."""
    fs.invalidate_cache()
    try:
        info = fs.info(path)
    except FileNotFoundError:
        found = fs.glob(path, detail=True) if set("*?[") & set(path) else {}
        return {name: info for name, info in found.items() if info["type"] == "file"} or None
    if info["type"] != "directory":
        return {path: info}
    inside = fs.find(path, detail=True)
    readable = [name for name in inside if can_be_read(name) and not HIDDEN.search(name.removeprefix(path))]
    kinds = {format_suffix(name) for name in readable}
    kind = next((kinds & {first} for first in (".parquet", ".tar") if first in kinds), kinds)
    return {name: inside[name] for name in readable if format_suffix(name) in kind}


def _token(info: dict[str, Any]) -> str:
    stamp = next((str(info[key]) for key in TOKEN_KEYS if info.get(key)), "")
    if not stamp and info.get("size") is None:
        return uuid.uuid4().hex  # nothing tells whether it changed: read it
    return f"{info.get('size')}-{stamp}"
