"""From the files of the sources into the lake: `pairs` gets what is new, `rejects` what can't be read.

A file that the table `files` knows is not opened again. It comes in there after its pairs are in `pairs`, so that a
build that was killed reads it again and finds them. New rows are collected over many files and committed together:
small files cost every reader that comes later.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from data.errors import SourceError, SourceUnreachable
from data.formats import read_rows
from data.lake import Lake
from data.pairs import FILES, PAIRS, REJECTS
from data.rows import Reject
from data.sources import File, Source, files_of, known_files
from data.stage import query
from data.table import write_file

ROWS_A_FILE = 100_000  # of a bucket, before they are written
HELD_BYTES = 512 << 20  # of rows that wait to be written, whatever the number of buckets
MOST_REJECTS = 10_000  # of one file that are kept; all are counted

IDENTIFIED = """
    SELECT left(sha256(url || chr(0) || caption), 32) AS id, url, caption, extra, sha256, row FROM rows
"""
NEW = """
    WITH known AS (SELECT present.id FROM present SEMI JOIN part USING (id))
    SELECT part.* FROM part ANTI JOIN known USING (id) QUALIFY row_number() OVER (PARTITION BY id ORDER BY place) = 1
"""


@dataclass
class Ingested:
    """What reading the sources came to."""

    seen: int = 0
    new: int = 0
    unreadable: int = 0  # rows, and whole files
    files_read: int = 0
    files_known: int = 0


@dataclass
class Reading:
    """One file that is being read."""

    file: File
    rows: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)

    def set_aside(self, rejects: list[Reject]) -> None:
        self.rejected += len(rejects)
        self.rejects += rejects[: max(0, MOST_REJECTS - len(self.rejects))]


@dataclass
class Collected:
    """Rows and files that wait to be committed together."""

    lake: Lake
    now: datetime
    parts: list[pa.Table] = field(default_factory=list)
    size: int = 0
    rows: int = 0
    files: list[Reading] = field(default_factory=list)  # read to their end
    new: Counter[str] = field(default_factory=Counter)  # rows of each file by its id

    def add(self, rows: pa.Table, source: str, file: str) -> None:
        found = query(IDENTIFIED, rows=rows)
        count = found.num_rows
        place = pa.array(np.arange(self.rows, self.rows + count))  # nothing is dropped that came earlier
        known = {
            "source": pa.repeat(source, count),
            "first_seen": pa.repeat(pa.scalar(self.now, PAIRS.field("first_seen").type), count),
            "replaces": pa.nulls(count, pa.string()),
        }
        columns = [known[name] if name in known else found[name] for name in PAIRS.names]
        rows = pa.table([*columns, place, pa.repeat(file, count)], names=[*PAIRS.names, "place", "of"])
        self.parts.append(rows)
        self.rows += count
        self.size += rows.nbytes

    @property
    def full(self) -> bool:
        return self.size >= HELD_BYTES or self.rows >= ROWS_A_FILE * self.lake.config.buckets

    def commit(self) -> None:
        """Write what waits: pairs first, then what tells that they were read."""
        if self.parts:
            self.new += add_new(self.lake, "pairs", PAIRS, pa.concat_tables(self.parts))
        self.parts, self.size, self.rows = [], 0, 0
        rejects = [_reject_row(reading.file, reject) for reading in self.files for reject in reading.rejects]
        if rejects:
            add_new(self.lake, "rejects", REJECTS, _placed(rejects, REJECTS))
        if self.files:
            files = [self._file_row(reading) for reading in self.files]
            add_new(self.lake, "files", FILES, _placed(files, FILES))
        self.files = []

    def _file_row(self, reading: Reading) -> dict[str, Any]:
        file = reading.file
        counts = {"rows": reading.rows, "new": self.new[file.id], "rejected": reading.rejected}
        return {"id": file.id, "path": file.url, "token": file.token, "at": self.now, **counts}


def ingest(lake: Lake, sources: tuple[Source, ...], now: datetime) -> Ingested:
    """Add the pairs that the lake does not hold yet, from files that it does not know yet."""
    lake.table_or_make("pairs", PAIRS)
    known, total, collected = known_files(lake), Ingested(), Collected(lake, now)
    for source in sources:
        for file in files_of(source):
            if file.id in known:
                total.files_known += 1
                continue
            known.add(file.id)
            reading = _read(file, source.path, collected)
            collected.files.append(reading)
            total.files_read += 1
            total.seen += reading.rows
            total.unreadable += reading.rejected
    collected.commit()
    total.new = collected.new.total()
    return total


def _read(file: File, source: str, collected: Collected) -> Reading:
    """Read a file to its end; one that breaks off has what was read of it, and a row that says so."""
    reading = Reading(file)
    try:
        for read, rejects in read_rows(file.url, file.layout):
            reading.rows += read.num_rows + len(rejects)
            reading.set_aside(rejects)
            if read.num_rows:
                collected.add(read, source, file.id)
            if collected.full:
                collected.commit()
    except SourceUnreachable:
        raise  # it may answer tomorrow
    except SourceError as error:
        reading.set_aside([Reject(None, str(error), "")])
    return reading


def add_new(lake: Lake, name: str, schema: pa.Schema, rows: pa.Table) -> Counter[str]:
    """Append the rows that a table lacks, by id, the first of equals; counts those of each file that they are `of`."""
    table, new = lake.table_or_make(name, schema), Counter[str]()
    while True:
        written = {}
        for bucket, part in _by_bucket(rows, lake.config.buckets):
            lacking = query(NEW, part=part, present=table.dataset(bucket))
            if lacking.num_rows:
                file = write_file(table.url, bucket, lacking.select(schema.names).cast(schema))
                written[file.path] = (file, Counter[str](lacking["of"].to_pylist()))
        landed = table.append([file for file, _ in written.values()]) if written else []
        for file in landed:
            new += written[file.path][1]
        if len(landed) == len(written):
            return new
        table.refresh()  # somebody else ingests too: plan again


def _by_bucket(rows: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """Rows cut by the leading bits of their ids."""
    leading = query("SELECT ('0x' || left(id, 4))::INTEGER AS bits, place FROM rows ORDER BY place", rows=rows)
    of = leading["bits"].to_numpy() * buckets >> 16
    order = np.argsort(of, kind="stable")
    sorted_rows, edges = rows.take(pa.array(order)), np.searchsorted(of[order], np.arange(buckets + 1))
    for bucket in np.unique(of).tolist():
        yield bucket, sorted_rows.slice(edges[bucket], edges[bucket + 1] - edges[bucket])


def _placed(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_pylist(rows, schema)
    place = pa.array(np.arange(table.num_rows))
    return table.append_column("place", place).append_column("of", pa.nulls(table.num_rows, pa.string()))


def _reject_row(file: File, reject: Reject) -> dict[str, Any]:
    id = hashlib.sha256("\0".join((file.id, str(reject.row))).encode()).hexdigest()[:32]
    return {"id": id, "file": file.url, **reject._asdict()}
