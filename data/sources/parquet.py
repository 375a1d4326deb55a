"""Reads pairs from Parquet files in batches of bounded size, however large the row groups are.

If the file contains pictures, their locations are read instead of the pictures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import SourceError
from data.lake import storage
from data.sources.rows import Layout, Rows, check_columns, parse_table

BUFFER = 1 << 20  # bytes of a column per read from a disk
REMOTE_BUFFER = 4 << 20  # bytes of a column per read from object storage, where every read is a request


def read_parquet(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    """Yield the rows of a Parquet file, `batch` at a time. If it contains pictures, rows include their locations.

    Raises:
        SourceError: A column is missing, or does not contain text.
    """
    with open_parquet(url) as file:
        schema, metadata = file.schema_arrow, file.metadata
        has_pictures, columns = parquet_columns(url, layout, schema)
        layout = replace(layout, extra=tuple(layout.extra_of(columns)))
        layout = layout if layout.sha256 in columns else replace(layout, sha256=None)
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        row = 0
        for record_batch in file.iter_batches(batch, columns=columns, use_threads=False):
            table, end = pa.Table.from_batches([record_batch]), row + len(record_batch)
            locations = _picture_locations(url, layout.image, metadata, starts, row, end) if has_pictures else None
            if layout.url not in columns:
                urls = [f"{url}#{number}" for number in range(row, end)]
                table = table.append_column(layout.url, pa.array(urls, pa.string()))
            yield parse_table(table, layout, row + 1, locations)
            row = end


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file so that it is read one buffer at a time, instead of by whole column chunks."""
    fs, path = storage.split_url(url)
    if storage.is_local(url):
        with pq.ParquetFile(path, buffer_size=BUFFER) as file:
            yield file
        return
    with fs.open(path, "rb", cache_type="none") as remote, pq.ParquetFile(remote, buffer_size=REMOTE_BUFFER) as file:
        yield file


def parquet_columns(url: str, layout: Layout, schema: pa.Schema) -> tuple[bool, list[str]]:
    """Return whether the file contains pictures, and the names of the other columns to read.

    Raises:
        SourceError: A column is missing, or does not contain text.
    """
    has_pictures = layout.image in schema.names and _is_picture(schema.field(layout.image).type)
    check_columns(url, layout, schema.names, has_pictures)
    texts = [name for name in (layout.url, layout.caption, layout.sha256) if name and name in schema.names]
    for name in texts:
        if not _is_text(schema.field(name).type):
            raise SourceError(f"source {url}: column {name!r} holds {schema.field(name).type}, not text")
    other = [field.name for field in schema if not _is_picture(field.type)]
    return has_pictures, [*texts, *layout.extra_of(other)]


def _is_text(type: pa.DataType) -> bool:
    """Return whether a column may contain text. Some writers store text as bytes, without marking it as text."""
    if pa.types.is_dictionary(type):
        return _is_text(type.value_type)
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_binary(type))


def _is_picture(type: pa.DataType) -> bool:
    """Return whether a column may contain pictures: bytes, or bytes with a path as Hugging Face writes them."""
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _is_picture(type.field("bytes").type)
    return pa.types.is_binary(type) or pa.types.is_large_binary(type)


def _picture_locations(
    url: str, column: str, metadata: pq.FileMetaData, starts: np.ndarray, first: int, end: int
) -> pa.Table:
    """Return the locations of the pictures in rows `first` to `end`: file, column, row group, and row in the row group.

    The size of the row group is recorded too. It shows later whether the file has changed.
    """
    numbers = np.arange(first, end)
    groups = np.searchsorted(starts, numbers, side="right") - 1
    sizes = np.array([metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)])
    return pa.table(
        {
            "parquet": pa.array([url] * len(numbers), pa.string()),
            "column": pa.array([column] * len(numbers), pa.string()),
            "row_group": groups,
            "row": numbers - starts[groups],
            "size": sizes[groups],
        }
    )
