"""Writes and opens the immutable Parquet files of a table. A file is not part of the table until a commit adds it."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from data.lake import storage

BINARY_ROW_GROUP = 128  # rows; small, so that one picture can be read without a thousand others
TEXT_ROW_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A Parquet file with rows of one bucket. Readers of the table do not see it until it is committed."""

    path: str  # relative to the table
    bucket: int
    rows: int
    size: int  # bytes
    first: str  # the smallest id
    last: str  # the largest id


def write_file(table_url: str, bucket: int, rows: pa.Table, row_group: int | None = None) -> ShardFile:
    """Write rows of one bucket as one file, sorted by id. The file's name is a hash of its content.

    Args:
        rows: At least one row; the column `id` is required.
        row_group: Rows per row group. The default is smaller if the rows contain pictures or other bytes.
    """
    rows = rows.sort_by("id")
    content = encode(rows, row_group)
    path = f"bucket={bucket}/{digest(content)}.parquet"
    storage.write(storage.join(table_url, path), content)
    return ShardFile(path, bucket, rows.num_rows, len(content), rows["id"][0].as_py(), rows["id"][-1].as_py())


def encode(rows: pa.Table, row_group: int | None = None) -> bytes:
    """Encode rows as Parquet, sorted by id, with statistics only for `id`. The same rows always give the same bytes."""
    binary = any(pa.types.is_binary(column.type) or pa.types.is_struct(column.type) for column in rows.schema)
    buffer = io.BytesIO()
    pq.write_table(
        rows,
        buffer,
        compression="zstd",
        row_group_size=row_group or (BINARY_ROW_GROUP if binary else TEXT_ROW_GROUP),
        write_statistics=["id"],
        use_dictionary=[column.name for column in rows.schema if pa.types.is_string(column.type)],
    )
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """Return the hash of a file's content, used as its name. Equal rows get equal names, and damage can be detected."""
    return hashlib.sha256(content).hexdigest()[:32]


def open_files(table_url: str, paths: Iterable[str], schema: pa.Schema) -> pads.Dataset:
    """Open files of a table by their paths, without reading the table's log."""
    root = storage.split_url(table_url)[1]
    arrow = storage.arrow_filesystem(table_url)
    return pads.dataset([f"{root}/{path}" for path in paths], schema=schema, filesystem=arrow, format="parquet")
