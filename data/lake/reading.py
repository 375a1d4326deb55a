"""Reads selected rows of a table, given their ids and files. At most a bounded number of rows is in memory."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data.lake.lake import Lake
from data.lake.schemas import IMAGES
from data.lake.shard_file import open_files

READ_AHEAD = 256  # rows per read: bounds the memory, and does not change the result


def read_pictures(lake: Lake, rows: pa.Table) -> Iterator[bytes]:
    """Yield the picture of each row, in the order of the rows.

    Args:
        rows: Columns `id` and `file` (the path in the table `images`), sorted by id.
    """
    for part in read_rows(lake, "images", IMAGES, ["image"], rows):
        yield from (picture.as_py() for picture in part["image"])


def read_rows(lake: Lake, table: str, schema: pa.Schema, columns: list[str], rows: pa.Table) -> Iterator[pa.Table]:
    """Yield columns of a table's rows in parts of at most READ_AHEAD rows, in the order of `rows`.

    Args:
        schema: The schema of the table's files.
        rows: Columns `id` and `file` (the path in the table), sorted by id.
    """
    url = lake.table_url(table)
    for start in range(0, rows.num_rows, READ_AHEAD):
        part = rows.slice(start, READ_AHEAD)
        files = open_files(url, pc.unique(part["file"]).to_pylist(), schema)
        matching = files.to_table(columns=["id", *columns], filter=id_filter(part["id"].to_pylist()))
        yield matching.sort_by("id")


def id_filter(ids: Sequence[str]) -> pc.Expression:
    """Make a filter for sorted ids. It also bounds their range, because Arrow can't skip row groups by many ids."""
    id = pc.field("id")
    return (id >= ids[0]) & (id <= ids[-1]) & id.isin(pa.array(ids, pa.string()))
