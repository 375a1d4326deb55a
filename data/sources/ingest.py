"""From the files of the sources into the lake: `pairs` gets what is new, `rejects` what can't be read.

A file that the table `files` knows is not opened again. It comes in there after its pairs are in `pairs`, so that a
build that was killed reads it again and finds them. New rows are collected over many files and committed together:
small files cost every reader that comes later.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from data.errors import SourceError, SourceUnreachable
from data.lake.append import append_missing, append_missing_rows, split_by_bucket
from data.lake.lake import Lake
from data.lake.schemas import FILES, PAIRS, REJECTS
from data.lake.sql import query
from data.sources.formats import read_rows
from data.sources.rows import Reject
from data.sources.sources import Source, SourceFile, ingested_file_ids, list_files
from data.sources.spill import SpillBuffer

ROWS_PER_FILE = 100_000  # of a bucket, before they are written
MAX_BUFFER_BYTES = 16 << 30  # bytes of rows that wait, whatever the number of buckets; a third of it on this disk
MAX_REJECTS = 10_000  # of one file that are kept; all are counted

IDS = """
    SELECT left(sha256(url || chr(0) || caption), 32) AS id, ('0x' || left(id, 4))::INTEGER * {buckets} >> 16 AS bucket
    FROM rows ORDER BY row
"""


@dataclass
class IngestSummary:
    """What reading the sources came to."""

    rows: int = 0
    new: int = 0
    unreadable: int = 0  # rows, and whole files
    files_read: int = 0
    files_skipped: int = 0


@dataclass
class FileTally:
    """One file that is being read."""

    file: SourceFile
    rows: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)

    def add_rejects(self, rejects: list[Reject]) -> None:
        self.rejected += len(rejects)
        self.rejects += rejects[: max(0, MAX_REJECTS - len(self.rejects))]


@dataclass
class IngestBuffer:
    """Rows and files that wait to be committed together."""

    lake: Lake
    started: datetime
    rows_by_bucket: SpillBuffer
    files: list[FileTally] = field(default_factory=list)  # read to their end
    new: Counter[str] = field(default_factory=Counter)  # rows of each file by its id

    def add(self, rows: pa.Table, source: str, file: str) -> None:
        count = rows.num_rows
        ids = query(IDS.format(buckets=self.lake.config.buckets), rows=rows.select(["row", "url", "caption"]))
        known = {
            "id": ids["id"],
            "source": pa.repeat(source, count),
            "first_seen": pa.repeat(pa.scalar(self.started, PAIRS.field("first_seen").type), count),
            "replaces": pa.nulls(count, pa.string()),
        }
        columns = [known[name] if name in known else rows[name] for name in PAIRS.names]
        rows = pa.table([*columns, pa.repeat(file, count)], names=[*PAIRS.names, "of"])
        self.rows_by_bucket.add(split_by_bucket(rows, ids["bucket"].to_numpy()))

    @property
    def full(self) -> bool:
        return (
            self.rows_by_bucket.size >= MAX_BUFFER_BYTES
            or self.rows_by_bucket.rows >= ROWS_PER_FILE * self.lake.config.buckets
        )

    def commit(self) -> None:
        """Write what waits: pairs first, then what tells that they were read."""
        if self.rows_by_bucket:
            self.new += append_missing(self.lake, "pairs", PAIRS, self.rows_by_bucket)
        self.rows_by_bucket.clear()
        rejects = [_reject_row(reading.file, reject) for reading in self.files for reject in reading.rejects]
        append_missing_rows(self.lake, "rejects", REJECTS, rejects)
        append_missing_rows(self.lake, "files", FILES, [self._file_row(reading) for reading in self.files])
        self.files = []

    def _file_row(self, reading: FileTally) -> dict[str, Any]:
        file = reading.file
        counts = {"rows": reading.rows, "new": self.new[file.id], "rejected": reading.rejected}
        return {"id": file.id, "path": file.url, "token": file.token, "at": self.started, **counts}


@dataclass
class IngestPreview:
    """What ingesting would find."""

    files: int = 0
    rows: int = 0
    new: int = 0  # rows that the lake lacks; one that is there twice in the sources counts twice


def preview_ingest(
    lake: Lake, sources: tuple[Source, ...], on_new: Callable[[pa.Table], None] = lambda rows: None
) -> IngestPreview:
    """What ingesting would read, without writing; `on_new` gets the new rows, with their ids, a stretch at a time."""
    known, pairs, total = ingested_file_ids(lake), lake.find("pairs"), IngestPreview()
    present = pa.table({"id": pa.array([], pa.string())}) if pairs is None else pairs.dataset()
    for source in sources:
        for file in list_files(source):
            if file.id in known:
                continue
            total.files += 1
            for read, _ in read_rows(file.url, file.layout):
                total.rows += read.num_rows
                ids = query(IDS.format(buckets=1), rows=read.select(["row", "url", "caption"]))["id"]
                rows = read.append_column("id", ids).append_column("source", pa.repeat(source.path, read.num_rows))
                new = query("SELECT rows.* FROM rows ANTI JOIN present USING (id)", rows=rows, present=present)
                total.new += new.num_rows
                on_new(new)
    return total


def ingest(lake: Lake, sources: tuple[Source, ...], now: datetime) -> IngestSummary:
    """Add the pairs that the lake does not hold yet, from files that it does not know yet."""
    lake.table_or_make("pairs", PAIRS)
    known, total = ingested_file_ids(lake), IngestSummary()
    with SpillBuffer() as held:
        collected = IngestBuffer(lake, now, held)
        for source in sources:
            for file in list_files(source):
                if file.id in known:
                    total.files_skipped += 1
                    continue
                known.add(file.id)
                try:
                    reading = _read(file, source.path, collected)
                except SourceUnreachable:
                    collected.commit()  # what was read of others is not to be read again
                    raise
                collected.files.append(reading)
                total.files_read += 1
                total.rows += reading.rows
                total.unreadable += reading.rejected
        collected.commit()
    total.new = collected.new.total()
    return total


def _read(file: SourceFile, source: str, collected: IngestBuffer) -> FileTally:
    """Read a file to its end; one that breaks off has what was read of it, and a row that says so."""
    reading = FileTally(file)
    try:
        for read, rejects in read_rows(file.url, file.layout):
            reading.rows += read.num_rows + len(rejects)
            reading.add_rejects(rejects)
            if read.num_rows:
                collected.add(read, source, file.id)
            if collected.full:
                collected.commit()
    except SourceUnreachable:
        raise  # it may answer tomorrow, so the file is not noted
    except SourceError as error:
        reading.add_rejects([Reject(None, str(error), "")])
    return reading


def _reject_row(file: SourceFile, reject: Reject) -> dict[str, Any]:
    id = hashlib.sha256("\0".join((file.id, str(reject.row))).encode()).hexdigest()[:32]
    return {"id": id, "file": file.url, **reject._asdict()}
