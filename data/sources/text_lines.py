"""Pairs in CSV, TSV and JSON lines, packed or not.

They are read by lines and not by Arrow's readers: a line that can't be read is set aside and the next one is read,
where a library's reader would give up the file.
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
MAX_LINE_BYTES = 1 << 20  # bytes; what is beyond is not read
READ_AHEAD = 4 << 20  # bytes that are read at once from a store
DECOMPRESS_BUFFER = 64 << 10  # bytes unpacked at once; as many may be lost before the place where a file breaks off
FILE_NAME = "file_name"  # a picture beside the table, as Hugging Face's image folders say it
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
MAX_NUMBER_CHARACTERS = 30  # characters; what is longer is a name
LENIENT = json.JSONDecoder(parse_constant=lambda _: None)  # NaN, which some writers write, is nothing


def read_csv(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    delimiter = "\t" if ".tsv" in PurePosixPath(url.lower()).suffixes[-2:] else ","
    sieve, names, line = RowCollector(layout), layout.names, ""

    def text() -> Iterator[str]:
        nonlocal line
        for raw in read_lines(url):
            line = raw.decode("utf-8", "surrogateescape")
            yield line

    reader = csv.reader(text(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE)

    def rows() -> Iterator[None]:
        nonlocal names
        extra = layout.extra_of(names or ())
        for cells, error in _one_by_one(reader):
            if error is not None:
                sieve.reject(reader.line_num, f"the line is malformed: {error}", line)
            elif names is None or (reader.line_num == 1 and set(cells) == set(names)):
                names = tuple(cells)
                check_columns(url, layout, names, FILE_NAME in names)
                extra = layout.extra_of(names)
            elif len(cells) == len(names):
                fields: dict[str, Any] = dict(zip(names, cells, strict=True))
                for name in extra:
                    fields[name] = _number(fields[name])
                _add(sieve, reader.line_num, url, fields)
            elif cells:
                reason = f"the line is malformed: {len(cells)} fields, not {len(names)}"
                sieve.reject(reader.line_num, reason, delimiter.join(cells))
            yield

    return _stretches(sieve, rows(), batch)


def read_json_lines(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    sieve, asked = RowCollector(layout), {layout.url, layout.caption}
    names: dict[str, None] = {}

    def rows() -> Iterator[None]:
        for number, line in enumerate(read_lines(url), 1):
            if not line.strip():
                continue
            try:
                fields = LENIENT.decode(line.decode())
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
            check_columns(url, replace(layout, lenient=True), tuple(names), FILE_NAME in names)
        yield stretch


def _stretches(sieve: RowCollector, rows: Iterator[None], batch: int) -> Iterator[Rows]:
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


def compression_of(url: str) -> str | None:
    """How a file is compressed, by its name."""
    return COMPRESSIONS.get(PurePosixPath(url.lower()).suffix)


def read_lines(url: str) -> Iterator[bytes]:
    """The lines of a text file, unpacked, each cut at its longest; without a byte order mark."""
    packing = compression_of(url)
    with storage.open_to_read(url, READ_AHEAD) as file:
        raw = file if packing is None else pa.CompressedInputStream(pa.PythonFile(file, "r"), packing)
        stream, mark = io.BufferedReader(raw, DECOMPRESS_BUFFER), True
        while line := stream.readline(MAX_LINE_BYTES):
            yield line.removeprefix(codecs.BOM_UTF8) if mark else line
            mark = False
            while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE_BYTES)):
                pass


def _add(sieve: RowCollector, row: int, url: str, fields: dict[str, Any]) -> None:
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
    if len(text) > MAX_NUMBER_CHARACTERS or not NUMBER.fullmatch(text):
        return text
    return float(text) if {".", "e", "E"} & set(text) else int(text)
