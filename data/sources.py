"""Where pairs come from: tables of URLs and captions by glob over any fsspec URL, read into the `pairs` table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from data import storage
from data.errors import SourceError
from data.lake import Lake
from data.pairs import PAIRS, bucket_of, pair_id
from data.stage import query
from data.table import write_file

READERS: dict[str, Callable[[Any], pa.Table]] = {
    ".parquet": pq.read_table,
    ".csv": pa.csv.read_csv,
    ".tsv": lambda file: pa.csv.read_csv(file, parse_options=pa.csv.ParseOptions(delimiter="\t")),
    ".jsonl": pa.json.read_json,
    ".ndjson": pa.json.read_json,
}


class Columns(BaseModel):
    """Which columns of the source hold what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = "url"
    caption: str = "caption"


class Source(BaseModel):
    """A table of pairs, or many by glob."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Parquet, CSV, TSV or JSON lines; a path or URL, globs allowed")
    columns: Columns = Columns()

    def under(self, folder: Path) -> "Source":
        """The same source with a relative path looked up from a folder."""
        if fsspec.core.split_protocol(self.path)[0] is not None or Path(self.path).is_absolute():
            return self
        return self.model_copy(update={"path": str(folder / self.path)})


@dataclass
class Ingested:
    """What reading the sources came to."""

    seen: int = 0
    new: int = 0
    unreadable: int = 0  # rows without a URL


def files_of(source: Source) -> list[str]:
    """The files of a source, in order; an error where there is none."""
    try:
        fs, path = storage.split(source.path)
        files = sorted(fs.glob(path)) if fs.exists(path) or "*" in path or "?" in path or "[" in path else []
    except storage.UNREACHABLE as error:
        raise SourceError(f"source {source.path} can't be reached: {error or type(error).__name__}") from error
    if not files:
        raise SourceError(f"source {source.path} does not exist. Correct sources.path in the recipe")
    return [fs.unstrip_protocol(file) for file in files]


def read_pairs(file: str, columns: Columns) -> pa.Table:
    """The url and caption columns of one file."""
    kind = Path(file).suffix
    reader = READERS.get(kind)
    if reader is None:
        raise SourceError(f"source {file} is no table that can be read. Known endings: {', '.join(READERS)}")
    try:
        table = reader(pa.BufferReader(storage.read(file)))
    except (*storage.UNREACHABLE, pa.ArrowException) as error:
        raise SourceError(f"source {file} can't be read: {str(error).splitlines()[0]}") from error
    for field, column in columns:
        if column not in table.column_names:
            raise SourceError(
                f"source {file} has no column {column!r} for {field}; it has {', '.join(table.column_names)}. "
                f"Name it in the recipe: sources.columns.{field}"
            )
    picked = table.select([columns.url, columns.caption]).rename_columns(["url", "caption"])
    return picked.cast(pa.schema({"url": pa.string(), "caption": pa.string()}))


def check_sources(sources: tuple[Source, ...]) -> None:
    """Raise before anything is written if a source can't be reached, lacks a column, or all are empty."""
    rows = 0
    for source in sources:
        for file in files_of(source):
            rows += read_pairs(file, source.columns).num_rows
    if not rows:
        raise SourceError(f"source {', '.join(source.path for source in sources)} holds no rows")


def ingest(lake: Lake, sources: tuple[Source, ...], now: datetime) -> Ingested:
    """Add the pairs that the lake does not hold yet, a file of the sources at a time."""
    total = Ingested()
    for source in sources:
        for file in files_of(source):
            read = read_pairs(file, source.columns)
            named = read.filter(
                pc.and_(pc.is_valid(read["url"]), pc.not_equal(pc.utf8_trim_whitespace(read["url"]), ""))
            )
            total.seen += read.num_rows
            total.unreadable += read.num_rows - named.num_rows
            total.new += _add_new(lake, _identified(named, source.path, now))
    return total


def _identified(rows: pa.Table, source: str, now: datetime) -> pa.Table:
    captions = pc.fill_null(rows["caption"], "")
    ids = [pair_id(url, text) for url, text in zip(rows["url"].to_pylist(), captions.to_pylist(), strict=True)]
    count = len(ids)
    columns = [pa.array(ids), rows["url"], captions, pa.array([source] * count), pa.array([now] * count)]
    columns += [pa.nulls(count)] * (len(PAIRS) - len(columns))
    return pa.table(columns, names=PAIRS.names).cast(PAIRS)


def _add_new(lake: Lake, rows: pa.Table) -> int:
    table = lake.table_or_make("pairs", PAIRS)
    while True:
        written = []
        for bucket, part in _by_bucket(rows, lake.config.buckets):
            new = query(
                "SELECT * FROM part ANTI JOIN pairs USING (id) QUALIFY row_number() OVER (PARTITION BY id) = 1",
                part=part,
                pairs=table.dataset(bucket),
            )
            if new.num_rows:
                written.append(write_file(table.url, bucket, new.cast(PAIRS)))
        if not written or len(table.append(written)) == len(written):
            return sum(file.rows for file in written)
        table.refresh()  # somebody else ingests too: plan again


def _by_bucket(rows: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    of = pa.array([bucket_of(id, buckets) for id in rows["id"].to_pylist()], pa.int32())
    for bucket in range(buckets):
        yield bucket, rows.filter(pc.equal(of, bucket))
