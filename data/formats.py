"""How a file of pairs is read, a stretch of rows at a time: Parquet, CSV, TSV, JSON lines. Tars lie in tars.py.

No file is held whole. Text is read by lines and not by Arrow's readers: a line that can't be read is set aside and the
next one is read; what a library reader would do with it is to give up the file.
"""

import codecs
import csv
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data import storage
from data.errors import SourceError, SourceUnreachable
from data.rows import BATCH, Layout, Reject, Rows, Sieve, sorted_out
from data.tars import read_tar

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LONGEST_LINE = 1 << 20  # bytes; what is beyond is not read
BUFFER = 1 << 20  # bytes of a column of a Parquet file that are read at once from a disk
FAR_BUFFER = 4 << 20  # the same of any file on a store, where every read is a request
UNPACKED = 64 << 10  # bytes unpacked at once; as many may be lost before the place where a file breaks off
FILE_NAME = "file_name"  # a picture beside the table, as Hugging Face's image folders say it
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LONGEST_NUMBER = 30  # characters; what is longer is a name
FAILURES = (*storage.UNREACHABLE, aiohttp.ClientError)
BROKEN = (pa.ArrowException, tarfile.TarError, EOFError, UnicodeError, csv.Error)


def ending(url: str) -> str:
    """What names the format of a file: `.csv` of `pairs.csv.gz`."""
    path = PurePosixPath(url.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def can_be_read(url: str) -> bool:
    """Whether the name of a file says that it may hold pairs."""
    packed = PurePosixPath(url.lower()).suffix in COMPRESSIONS
    return ending(url) in (TEXT if packed else READERS)


def read_rows(url: str, layout: Layout, batch: int = BATCH) -> Generator[Rows, None, None]:
    """Every row of a file, in its order, about a batch at a time."""
    if not can_be_read(url):
        known = [*READERS, *(kind + packing for kind in TEXT for packing in COMPRESSIONS)]
        raise SourceError(f"source {url} is no table that can be read. Known endings: {', '.join(known)}")
    with naming(url):
        yield from READERS[ending(url)](url, layout, batch)


@contextmanager
def naming(url: str) -> Iterator[None]:
    """Say of which file an error speaks, and tell a broken file from a store that doesn't answer."""
    try:
        yield
    except SourceError:
        raise
    except BROKEN as error:
        raise SourceError(f"source {url} can't be read: {_first_line(error)}") from error
    except FAILURES as error:
        if type(error) is OSError and error.errno is None:  # Arrow's, of what it found in the file
            raise SourceError(f"source {url} can't be read: {_first_line(error)}") from error
        raise SourceUnreachable(f"source {url} can't be reached: {_first_line(error)}") from error


def first_rows(url: str, layout: Layout, rows: int) -> tuple[int, list[Reject]]:
    """How many rows begin a file, and what can't be read of them; of Parquet, what its footer says."""
    if url.lower().endswith(".parquet"):
        with naming(url), open_parquet(url) as file:
            parquet_columns(url, layout, file.schema_arrow)
            return file.metadata.num_rows, []
    with closing(read_rows(url, layout, rows)) as stretches:
        first = next(stretches, None)
        return (first.read.num_rows, first.rejects) if first else (0, [])


def read_parquet(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    with open_parquet(url) as file:
        schema, metadata = file.schema_arrow, file.metadata
        along, columns = parquet_columns(url, layout, schema)
        layout = replace(layout, extra=tuple(layout.extra_of(columns)))
        layout = layout if layout.sha256 in columns else replace(layout, sha256=None)
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        row = 0
        for some in file.iter_batches(batch, columns=columns, use_threads=False):
            table = pa.Table.from_batches([some])
            places = _picture_places(url, layout.image, metadata, starts, row, len(some)) if along else None
            if layout.url not in columns:
                urls = [f"{url}#{number}" for number in range(row, row + len(some))]
                table = table.append_column(layout.url, pa.array(urls, pa.string()))
            yield sorted_out(table, layout, row + 1, places)
            row += len(some)


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file that is read in bounded pieces, however large its row groups are."""
    fs, path = storage.split(url)
    if storage.is_local(url):
        with pq.ParquetFile(path, buffer_size=BUFFER) as file:
            yield file
        return
    with fs.open(path, "rb", cache_type="none") as far, pq.ParquetFile(far, buffer_size=FAR_BUFFER) as file:
        yield file


def parquet_columns(url: str, layout: Layout, schema: pa.Schema) -> tuple[bool, list[str]]:
    """Whether pictures come along, and the columns to read; an error where one lacks or is no text."""
    along = layout.image in schema.names and _is_picture(schema.field(layout.image).type)
    _check_columns(url, layout, schema.names, along)
    texts = [name for name in (layout.url, layout.caption, layout.sha256) if name and name in schema.names]
    for name in texts:
        if not _is_text(schema.field(name).type):
            raise SourceError(f"source {url}: column {name!r} holds {schema.field(name).type}, not text")
    plain = [field.name for field in schema if not _is_picture(field.type)]
    return along, [*texts, *layout.extra_of(plain)]


def read_csv(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    delimiter = "\t" if ending(url) == ".tsv" else ","
    sieve, names, line = Sieve(layout), layout.names, ""

    def text() -> Iterator[str]:
        nonlocal line
        for raw in _lines(url):
            line = raw.decode("utf-8", "surrogateescape")
            yield line

    reader = csv.reader(text(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE)

    def rows() -> Iterator[None]:
        nonlocal names
        for cells, error in _one_by_one(reader):
            if error is not None:
                sieve.reject(reader.line_num, f"the line is malformed: {error}", line)
            elif names is None or (reader.line_num == 1 and set(cells) == set(names)):
                names = tuple(cells)
                _check_columns(url, layout, names, FILE_NAME in names)
            elif len(cells) == len(names):
                fields = dict(zip(names, cells, strict=True))
                _add(sieve, reader.line_num, url, fields | {n: _number(fields[n]) for n in layout.extra_of(names)})
            elif cells:
                reason = f"the line is malformed: {len(cells)} fields, not {len(names)}"
                sieve.reject(reader.line_num, reason, delimiter.join(cells))
            yield

    return _stretches(sieve, rows(), batch)


def read_json_lines(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    sieve, asked = Sieve(layout), {layout.url, layout.caption}
    names: dict[str, None] = {}

    def rows() -> Iterator[None]:
        for number, line in enumerate(_lines(url), 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line, parse_constant=lambda _: None)
            except (ValueError, RecursionError) as error:
                sieve.reject(number, f"the line is no JSON: {error}", line.decode("utf-8", "replace"))
            else:
                if isinstance(fields, dict):
                    if not asked <= names.keys():
                        names.update(dict.fromkeys(fields))
                    _add(sieve, number, url, fields)
                else:
                    sieve.reject(number, "the line is no JSON object", line.decode("utf-8", "replace"))
            yield

    for place, stretch in enumerate(_stretches(sieve, rows(), batch)):
        if place == 0 and names:
            _check_columns(url, replace(layout, lenient=True), tuple(names), FILE_NAME in names)
        yield stretch


def _stretches(sieve: Sieve, rows: Iterator[None], batch: int) -> Iterator[Rows]:
    """What a sieve has sorted, every `batch` rows, and before the file proves to be broken."""
    try:
        for _ in rows:
            if len(sieve) >= batch:
                yield sieve.take()
    except Exception:
        if len(sieve):
            yield sieve.take()
        raise
    if len(sieve):
        yield sieve.take()


def _one_by_one(reader: Iterator[list[str]]) -> Iterator[tuple[list[str], csv.Error | None]]:
    """The rows of a CSV reader, which goes on with the next line after one that it can't make sense of."""
    while True:
        try:
            yield next(reader), None
        except StopIteration:
            return
        except csv.Error as error:
            yield [], error


def _lines(url: str) -> Iterator[bytes]:
    """The lines of a text file, unpacked, each cut at its longest; without a byte order mark."""
    packing = COMPRESSIONS.get(PurePosixPath(url.lower()).suffix)
    with storage.open_to_read(url, FAR_BUFFER) as file:
        stream = cast(BinaryIO, file)
        if packing is not None:
            stream = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), packing), UNPACKED)
        mark = True
        while line := stream.readline(LONGEST_LINE):
            yield line.removeprefix(codecs.BOM_UTF8) if mark else line
            mark = False
            while not line.endswith(b"\n") and (line := stream.readline(LONGEST_LINE)):
                pass


def _add(sieve: Sieve, row: int, url: str, fields: dict[str, Any]) -> None:
    """A row; one that names a picture beside its table instead of a URL has it with it."""
    beside = fields.get(FILE_NAME)
    if sieve.layout.url in fields or not isinstance(beside, str):
        sieve.add(row, fields)
        return
    folder, _, _ = url.rpartition("/")
    inside = posixpath.normpath(beside)
    if inside.startswith(("/", "..")):
        sieve.reject(row, f"{FILE_NAME} leads out of the folder", beside)
        return
    picture = storage.join(folder, inside)
    sieve.add(row, {**fields, sieve.layout.url: picture}, {"file": picture})


def _number(text: str) -> str | int | float:
    """A number where a text file says one."""
    if len(text) > LONGEST_NUMBER or not NUMBER.fullmatch(text):
        return text
    return float(text) if {".", "e", "E"} & set(text) else int(text)


def _check_columns(url: str, layout: Layout, names: Sequence[str], along: bool = False) -> None:
    """Raise where a file lacks a column that it must have; a file whose pictures come along needs no URLs."""
    asked = ({} if along else {"url": layout.url}) | {"caption": layout.caption}
    if not layout.lenient:
        asked |= {"sha256": layout.sha256} if layout.sha256 else {}
        lacking = [] if layout.extra == "all" else [name for name in layout.extra if name not in names]
        asked |= {"extra": lacking[0]} if lacking else {}
    for field, column in asked.items():
        if column not in names:
            raise SourceError(
                f"source {url} has no column {column!r} for {field}; it has {', '.join(map(str, names))}. "
                f"Name it in the recipe: sources.columns.{field}"
            )


def _is_text(type: pa.DataType) -> bool:
    """Text, or bytes that may be text: some writers leave out the note that says so."""
    if pa.types.is_dictionary(type):
        return _is_text(type.value_type)
    return any(is_kind(type) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _is_picture(type: pa.DataType) -> bool:
    """A column of pictures: bytes, or bytes with a path as Hugging Face writes them."""
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _is_picture(type.field("bytes").type)
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _picture_places(
    url: str, column: str, metadata: pq.FileMetaData, starts: np.ndarray, first: int, rows: int
) -> pa.Table:
    """Where the pictures of some rows lie; the size of a row group tells later whether it is still the same."""
    numbers = np.arange(first, first + rows)
    groups = np.searchsorted(starts, numbers, side="right") - 1
    sizes = np.array([metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups)])
    return pa.table(
        {
            "parquet": pa.array([url] * rows, pa.string()),
            "column": pa.array([column] * rows, pa.string()),
            "row_group": groups,
            "row": numbers - starts[groups],
            "size": sizes[groups],
        }
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


TEXT = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_json_lines, ".ndjson": read_json_lines}
READERS: dict[str, Callable[[str, Layout, int], Iterator[Rows]]] = {".parquet": read_parquet, **TEXT, ".tar": read_tar}
