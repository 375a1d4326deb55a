"""Reads pairs from CSV, TSV and JSON lines, compressed or not.

The files are read line by line instead of by Arrow's readers. If a line can't be read, only this line is rejected,
whereas Arrow would reject the whole file.
"""

import codecs
import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from data.lake import storage
from data.sources.rows import Layout, RowCollector, Rows, check_columns

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MAX_LINE_BYTES = 1 << 20  # the rest of a longer line is skipped
READ_AHEAD = 4 << 20  # bytes per request to a store
DECOMPRESS_BUFFER = 64 << 10  # bytes; if a file breaks off, up to this many bytes before that point are lost
FILE_NAME = "file_name"  # the column of Hugging Face's image folders: a picture beside the table
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
MAX_NUMBER_CHARACTERS = 30  # longer texts of digits are names
LENIENT = json.JSONDecoder(parse_constant=lambda _: None)  # NaN, which some writers write, becomes null


def read_csv(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    """Yield the rows of a CSV or TSV, about `batch` at a time. Texts of numbers in extra columns become numbers.

    Raises:
        SourceError: A column is missing.
    """
    delimiter = "\t" if ".tsv" in PurePosixPath(url.lower()).suffixes[-2:] else ","
    collector, names, line = RowCollector(layout), layout.names, ""

    def decoded_lines() -> Iterator[str]:
        nonlocal line
        for raw in read_lines(url):
            line = raw.decode("utf-8", "surrogateescape")
            yield line

    reader = csv.reader(
        decoded_lines(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    )

    def collect_rows() -> Iterator[None]:
        nonlocal names
        extra = layout.extra_of(names or ())
        for cells, error in _rows_and_errors(reader):
            if error is not None:
                collector.reject(reader.line_num, f"the line is malformed: {error}", line)
            elif names is None or (reader.line_num == 1 and set(cells) == set(names)):
                names = tuple(cells)
                check_columns(url, layout, names, FILE_NAME in names)
                extra = layout.extra_of(names)
            elif len(cells) == len(names):
                fields: dict[str, Any] = dict(zip(names, cells, strict=True))
                for name in extra:
                    fields[name] = _parse_number(fields[name])
                _add(collector, reader.line_num, url, fields)
            elif cells:
                reason = f"the line is malformed: {len(cells)} fields, not {len(names)}"
                collector.reject(reader.line_num, reason, delimiter.join(cells))
            yield

    return _batches(collector, collect_rows(), batch)


def read_json_lines(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    """Yield the rows of JSON lines, about `batch` at a time.

    Raises:
        SourceError: A required column is missing in all rows of the first batch.
    """
    collector, required = RowCollector(layout), {layout.url, layout.caption}
    names: dict[str, None] = {}  # the keys that were seen so far, as an ordered set

    def collect_rows() -> Iterator[None]:
        for number, line in enumerate(read_lines(url), 1):
            if not line.strip():
                continue
            try:
                fields = LENIENT.decode(line.decode())
            except (ValueError, RecursionError) as error:
                collector.reject(number, f"the line is no JSON: {error}", line.decode("utf-8", "replace"))
            else:
                if isinstance(fields, dict):
                    if not required <= names.keys():
                        names.update(dict.fromkeys(fields))
                    _add(collector, number, url, fields)
                else:
                    collector.reject(number, "the line is no JSON object", line.decode("utf-8", "replace"))
            yield

    for place, rows in enumerate(_batches(collector, collect_rows(), batch)):
        if place == 0 and names:
            check_columns(url, replace(layout, lenient=True), tuple(names), FILE_NAME in names)
        yield rows


def _batches(collector: RowCollector, rows: Iterator[None], batch: int) -> Iterator[Rows]:
    """Run `rows` to its end, and yield the collected rows in batches.

    If `rows` raises an error, the rows collected before the error are yielded first.

    Args:
        rows: An iterator that adds a row to the collector at each step.
    """
    try:
        for _ in rows:
            if len(collector) >= batch:
                yield collector.take()
    except Exception:
        if len(collector):
            yield collector.take()
        raise
    if len(collector):
        yield collector.take()


def _rows_and_errors(reader: Iterator[list[str]]) -> Iterator[tuple[list[str], csv.Error | None]]:
    """Yield each row of a CSV reader, or the error for a row that can't be parsed. The reader continues after it."""
    while True:
        try:
            yield next(reader), None
        except StopIteration:
            return
        except csv.Error as error:
            yield [], error


def compression_of(url: str) -> str | None:
    """Return pyarrow's name for the compression that a file's name indicates. None if the file is not compressed."""
    return COMPRESSIONS.get(PurePosixPath(url.lower()).suffix)


def read_lines(url: str) -> Iterator[bytes]:
    """Yield the decompressed lines of a text file, without a byte order mark. Lines are cut at MAX_LINE_BYTES."""
    compression = compression_of(url)
    with storage.open_to_read(url, READ_AHEAD) as file:
        raw = file if compression is None else pa.CompressedInputStream(pa.PythonFile(file, "r"), compression)
        stream, is_first = io.BufferedReader(raw, DECOMPRESS_BUFFER), True
        while line := stream.readline(MAX_LINE_BYTES):
            yield line.removeprefix(codecs.BOM_UTF8) if is_first else line
            is_first = False
            while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE_BYTES)):
                pass


def _add(collector: RowCollector, row: int, url: str, fields: dict[str, Any]) -> None:
    """Add a row. If it names a picture file next to the table instead of a URL, this file is its picture's location."""
    file_name = fields.get(FILE_NAME)
    if collector.layout.url in fields or not isinstance(file_name, str):
        collector.add(row, fields)
        return
    folder, _, _ = url.rpartition("/")
    path = posixpath.normpath(file_name)
    if path.startswith(("/", "..")):
        collector.reject(row, f"{FILE_NAME} leads out of the folder", file_name)
        return
    picture = storage.join(folder, path)
    collector.add(row, {**fields, collector.layout.url: picture}, {"file": picture})


def _parse_number(text: str) -> str | int | float:
    """Convert a text in decimal notation to a number. Other texts are returned unchanged."""
    if len(text) > MAX_NUMBER_CHARACTERS or not NUMBER.fullmatch(text):
        return text
    return float(text) if {".", "e", "E"} & set(text) else int(text)
