"""The formats of files of pairs: which one a file has by its name, and what goes wrong in it, told by its name."""

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

LINE_READERS = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_json_lines, ".ndjson": read_json_lines}
READERS: dict[str, Callable[[str, Layout, int], Iterator[Rows]]] = {
    ".parquet": read_parquet,
    **LINE_READERS,
    ".tar": read_tar,
}
STORE_ERRORS = (*storage.UNREACHABLE, aiohttp.ClientError)
FORMAT_ERRORS = (pa.ArrowException, tarfile.TarError, EOFError, UnicodeError, csv.Error)


def format_suffix(url: str) -> str:
    """What names the format of a file: `.csv` of `pairs.csv.gz`."""
    path = PurePosixPath(url.lower())
    return PurePosixPath(path.stem).suffix if compression_of(url) else path.suffix


def can_be_read(url: str) -> bool:
    """Whether the name of a file says that it may hold pairs."""
    return format_suffix(url) in (LINE_READERS if compression_of(url) else READERS)


def read_rows(url: str, layout: Layout, batch: int = BATCH) -> Generator[Rows, None, None]:
    """Every row of a file, in its order, about a batch at a time."""
    if not can_be_read(url):
        known = [*READERS, *(kind + packing for kind in LINE_READERS for packing in COMPRESSIONS)]
        raise SourceError(f"source {url} is no table that can be read. Known endings: {', '.join(known)}")
    with source_errors(url):
        yield from READERS[format_suffix(url)](url, layout, batch)


@contextmanager
def source_errors(url: str) -> Iterator[None]:
    """Say of which file an error speaks, and tell a broken file from a store that doesn't answer."""
    try:
        yield
    except SourceError:
        raise
    except FORMAT_ERRORS as error:
        raise SourceError(f"source {url} can't be read: {_first_line(error)}") from error
    except STORE_ERRORS as error:
        if type(error) is OSError and error.errno is None:  # Arrow's, of what it found in the file
            raise SourceError(f"source {url} can't be read: {_first_line(error)}") from error
        raise SourceUnreachable(f"source {url} can't be reached: {_first_line(error)}") from error


def peek_rows(url: str, layout: Layout, rows: int) -> tuple[int, list[Reject]]:
    """How many rows begin a file, and what can't be read of them; of Parquet, what its footer says."""
    if url.lower().endswith(".parquet"):
        with source_errors(url), open_parquet(url) as file:
            parquet_columns(url, layout, file.schema_arrow)
            return file.metadata.num_rows, []
    with closing(read_rows(url, layout, rows)) as stretches:
        first = next(stretches, None)
        return (first.valid.num_rows, first.rejects) if first else (0, [])


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
