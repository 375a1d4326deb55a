"""Pairs in Parquet files, read in bounded pieces, however large their row groups are. Pictures in them come along."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import SourceError
from data.lake import storage
from data.sources.rows import Layout, Rows, check_columns, parse_table

BUFFER = 1 << 20  # bytes of a column that are read at once from a disk
FAR_BUFFER = 4 << 20  # the same from a store, where every read is a request


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
            yield parse_table(table, layout, row + 1, places)
            row += len(some)


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file that is read a buffer at a time, and not by column chunks."""
    fs, path = storage.split_url(url)
    if storage.is_local(url):
        with pq.ParquetFile(path, buffer_size=BUFFER) as file:
            yield file
        return
    with fs.open(path, "rb", cache_type="none") as far, pq.ParquetFile(far, buffer_size=FAR_BUFFER) as file:
        yield file


def parquet_columns(url: str, layout: Layout, schema: pa.Schema) -> tuple[bool, list[str]]:
    """Whether pictures come along, and the columns to read; an error where one lacks or is no text."""
    along = layout.image in schema.names and _is_picture(schema.field(layout.image).type)
    check_columns(url, layout, schema.names, along)
    texts = [name for name in (layout.url, layout.caption, layout.sha256) if name and name in schema.names]
    for name in texts:
        if not _is_text(schema.field(name).type):
            raise SourceError(f"source {url}: column {name!r} holds {schema.field(name).type}, not text")
    plain = [field.name for field in schema if not _is_picture(field.type)]
    return along, [*texts, *layout.extra_of(plain)]


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
