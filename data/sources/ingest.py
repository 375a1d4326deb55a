"""Reads the files of sources into the lake: new pairs into `pairs`, and rows that can't be read into `rejects`.

Each file is read once: it is noted in the table `files`, and a noted file is not opened again. A file is noted after
its pairs are committed. So if a build is killed before that, the next build reads the file again and finds its pairs in
the lake. New rows from many files are buffered and committed together, because small files slow down all later reads.
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

ROWS_PER_FILE = 100_000  # rows per bucket that are buffered before they are committed
MAX_BUFFER_BYTES = 16 << 30  # of buffered rows, for any number of buckets; on disk they take a third of it
MAX_REJECTS = 10_000  # rejected rows of one file that are stored; all of them are counted

IDS = """
    SELECT left(sha256(url || chr(0) || caption), 32) AS id, ('0x' || left(id, 4))::INTEGER * {buckets} >> 16 AS bucket
    FROM rows ORDER BY row
"""


@dataclass
class IngestSummary:
    """The counts of one ingestion.

    Attributes:
        rows: Rows that were read, including rejected rows.
        new: Pairs that were added to the lake.
        unreadable: Rejected rows, and files that could not be read to their end.
        files_read: Files that were read.
        files_skipped: Files that had been read before.
    """

    rows: int = 0
    new: int = 0
    unreadable: int = 0
    files_read: int = 0
    files_skipped: int = 0


@dataclass
class FileTally:
    """A file that is being read, with its counts and the first MAX_REJECTS of its rejected rows."""

    file: SourceFile
    rows: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)

    def add_rejects(self, rejects: list[Reject]) -> None:
        """Count rejected rows, and keep them while there is room."""
        self.rejected += len(rejects)
        self.rejects += rejects[: max(0, MAX_REJECTS - len(self.rejects))]


@dataclass
class IngestBuffer:
    """Rows and files that wait to be committed together.

    Attributes:
        started: The time when the ingestion started, stored as `first_seen` of its pairs.
        rows_by_bucket: The rows that wait, keyed by bucket.
        files: The files that were read to their end since the last commit.
        new: The number of pairs that each file added, keyed by the file's id.
    """

    lake: Lake
    started: datetime
    rows_by_bucket: SpillBuffer
    files: list[FileTally] = field(default_factory=list)
    new: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table, source: str, file: str) -> None:
        """Add rows of a file.

        Args:
            source: The path of the source in the recipe.
            file: The id of the file.
        """
        count = rows.num_rows
        ids = query(IDS.format(buckets=self.lake.config.buckets), rows=rows.select(["row", "url", "caption"]))
        computed = {
            "id": ids["id"],
            "source": pa.repeat(source, count),
            "first_seen": pa.repeat(pa.scalar(self.started, PAIRS.field("first_seen").type), count),
            "replaces": pa.nulls(count, pa.string()),
        }
        columns = [computed[name] if name in computed else rows[name] for name in PAIRS.names]
        rows = pa.table([*columns, pa.repeat(file, count)], names=[*PAIRS.names, "of"])
        self.rows_by_bucket.add(split_by_bucket(rows, ids["bucket"].to_numpy()))

    @property
    def full(self) -> bool:
        """Return whether enough rows are buffered for a commit."""
        buffered = self.rows_by_bucket
        return buffered.size >= MAX_BUFFER_BYTES or buffered.rows >= ROWS_PER_FILE * self.lake.config.buckets

    def commit(self) -> None:
        """Commit the rows, then the rejects, then the files that were read to their end."""
        if self.rows_by_bucket:
            self.new += append_missing(self.lake, "pairs", PAIRS, self.rows_by_bucket)
        self.rows_by_bucket.clear()
        rejects = [_reject_row(tally.file, reject) for tally in self.files for reject in tally.rejects]
        append_missing_rows(self.lake, "rejects", REJECTS, rejects)
        append_missing_rows(self.lake, "files", FILES, [self._file_row(tally) for tally in self.files])
        self.files = []

    def _file_row(self, tally: FileTally) -> dict[str, Any]:
        file = tally.file
        counts = {"rows": tally.rows, "new": self.new[file.id], "rejected": tally.rejected}
        return {"id": file.id, "path": file.url, "token": file.token, "at": self.started, **counts}


@dataclass
class IngestPreview:
    """The counts that an ingestion of the sources would give now.

    Attributes:
        files: Files that were not read before.
        rows: Valid rows in these files.
        new: Those of these rows whose pair is not in the lake. A pair that occurs twice in the sources counts twice.
    """

    files: int = 0
    rows: int = 0
    new: int = 0


def preview_ingest(
    lake: Lake, sources: tuple[Source, ...], on_new: Callable[[pa.Table], None] = lambda rows: None
) -> IngestPreview:
    """Read the new files of the sources without writing anything.

    Args:
        on_new: Called with the columns `id` and `source` of each batch of rows that are not in the lake.
    """
    ingested, pairs, preview = ingested_file_ids(lake), lake.find("pairs"), IngestPreview()
    present = pa.table({"id": pa.array([], pa.string())}) if pairs is None else pairs.dataset()
    for source in sources:
        for file in list_files(source):
            if file.id in ingested:
                continue
            preview.files += 1
            for valid, _ in read_rows(file.url, file.layout):
                preview.rows += valid.num_rows
                ids = query(IDS.format(buckets=1), rows=valid.select(["row", "url", "caption"]))["id"]
                rows = valid.append_column("id", ids).append_column("source", pa.repeat(source.path, valid.num_rows))
                new = query("SELECT rows.* FROM rows ANTI JOIN present USING (id)", rows=rows, present=present)
                preview.new += new.num_rows
                on_new(new)
    return preview


def ingest(lake: Lake, sources: tuple[Source, ...], now: datetime) -> IngestSummary:
    """Add the pairs that are not in the lake yet, from files that were not read before.

    This can be repeated, and interrupted at any time. No pair is added twice, and no file is skipped before its pairs
    are committed. Memory is bounded for files of any size.

    Args:
        now: Stored as `first_seen` of the new pairs.

    Raises:
        SourceError: A source does not exist or is empty.
        SourceUnreachable: A store does not answer. Files that were not committed are read again by the next run.
    """
    lake.table_or_make("pairs", PAIRS)
    ingested, summary = ingested_file_ids(lake), IngestSummary()
    with SpillBuffer() as rows_by_bucket:
        buffer = IngestBuffer(lake, now, rows_by_bucket)
        for source in sources:
            for file in list_files(source):
                if file.id in ingested:
                    summary.files_skipped += 1
                    continue
                ingested.add(file.id)
                try:
                    tally = _read_file(file, source.path, buffer)
                except SourceUnreachable:
                    buffer.commit()  # so that the files before this one need not be read again
                    raise
                buffer.files.append(tally)
                summary.files_read += 1
                summary.rows += tally.rows
                summary.unreadable += tally.rejected
        buffer.commit()
    summary.new = buffer.new.total()
    return summary


def _read_file(file: SourceFile, source: str, buffer: IngestBuffer) -> FileTally:
    """Read a file to its end. If it is broken, earlier rows are kept, and a reject without a row number is added."""
    tally = FileTally(file)
    try:
        for valid, rejects in read_rows(file.url, file.layout):
            tally.rows += valid.num_rows + len(rejects)
            tally.add_rejects(rejects)
            if valid.num_rows:
                buffer.add(valid, source, file.id)
            if buffer.full:
                buffer.commit()
    except SourceUnreachable:
        raise  # a later run may reach it, so the file is not noted as read
    except SourceError as error:
        tally.add_rejects([Reject(None, str(error), "")])
    return tally


def _reject_row(file: SourceFile, reject: Reject) -> dict[str, Any]:
    id = hashlib.sha256("\0".join((file.id, str(reject.row))).encode()).hexdigest()[:32]
    return {"id": id, "file": file.url, **reject._asdict()}
