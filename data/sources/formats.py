"""Recognises the format of a source's file by its name, and reports errors in reading the file."""

import csv
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import PurePosixPath

import aiohttp
import pyarrow as pa

from data.errors import SourceError, SourceUnreachable
from data.lake import storage
from data.sources.parquet import open_parquet, parquet_columns, read_parquet
from data.sources.rows import BATCH, Layout, Reject, Rows
from data.sources.tars import read_tar
from data.sources.text_lines import COMPRESSIONS, compression_of, read_csv, read_json_lines

Reader = Callable[[str, Layout, int], Iterator[Rows]]  # URL, layout, rows per batch
LINE_READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
}
READERS: dict[str, Reader] = {".parquet": read_parquet, **LINE_READERS, ".tar": read_tar}
STORE_ERRORS = (*storage.UNREACHABLE, aiohttp.ClientError)
FORMAT_ERRORS = (pa.ArrowException, tarfile.TarError, EOFError, UnicodeError, csv.Error)


def format_suffix(url: str) -> str:
    """Return the suffix that names the format of a file, such as `.csv` for `pairs.csv.gz`."""
    path = PurePosixPath(url.lower())
    return PurePosixPath(path.stem).suffix if compression_of(url) else path.suffix


def can_be_read(url: str) -> bool:
    """Return whether a file's name has the suffix of a known format. Only line-based formats may be compressed."""
    return format_suffix(url) in (LINE_READERS if compression_of(url) else READERS)


def read_rows(url: str, layout: Layout, batch: int = BATCH) -> Generator[Rows, None, None]:
    """Yield all rows of a file in order, about `batch` at a time. Each row is either valid or rejected.

    Raises:
        SourceError: The format is unknown, a column is missing, or the file is broken. All earlier rows were yielded.
        SourceUnreachable: The store does not answer.
    """
    if not can_be_read(url):
        compressed = (suffix + compression for suffix in LINE_READERS for compression in COMPRESSIONS)
        suffixes = ", ".join([*READERS, *compressed])
        raise SourceError(f"source {url} is not a file of a known format. Known endings: {suffixes}")
    with source_errors(url):
        yield from READERS[format_suffix(url)](url, layout, batch)


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """Convert errors of libraries to a SourceError that names the file, or to SourceUnreachable if the store fails."""
    try:
        yield
    except SourceError:
        raise
    except FORMAT_ERRORS as error:
        raise SourceError(f"source {url} can't be read: {_first_line(error)}") from error
    except STORE_ERRORS as error:
        if type(error) is OSError and error.errno is None:  # raised by Arrow about the content of the file
            raise SourceError(f"source {url} can't be read: {_first_line(error)}") from error
        raise SourceUnreachable(f"source {url} can't be reached: {_first_line(error)}") from error


def peek_rows(url: str, layout: Layout, rows: int) -> tuple[int, list[Reject]]:
    """Read the start of a file.

    Args:
        rows: The number of rows to read. In a Parquet file, only the footer is read.

    Returns:
        The number of valid rows (or of all rows in a Parquet file), and the rejected rows.

    Raises:
        SourceError: A column is missing, or the file can't be read.
        SourceUnreachable: The store does not answer.
    """
    if url.lower().endswith(".parquet"):
        with source_errors(url), open_parquet(url) as file:
            parquet_columns(url, layout, file.schema_arrow)
            return file.metadata.num_rows, []
    with closing(read_rows(url, layout, rows)) as batches:
        first = next(batches, None)
        return (first.valid.num_rows, first.rejects) if first else (0, [])


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else "") or type(error).__name__
