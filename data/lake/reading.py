"""Read some rows of a table by id and file, a bounded number at a time."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from data.lake.lake import Lake
from data.lake.schemas import IMAGES
from data.lake.table import open_files

READ_AHEAD = 256  # rows a read: bounds the memory, not the result


def read_pictures(lake: Lake, rows: pa.Table) -> Iterator[bytes]:
    """The pictures of rows with id and file, in the order of the rows, which is that of their ids."""
    for part in read_rows(lake, "images", IMAGES, ["image"], rows):
        yield from (picture.as_py() for picture in part["image"])


def read_rows(lake: Lake, table: str, schema: pa.Schema, columns: list[str], rows: pa.Table) -> Iterator[pa.Table]:
    """Columns of a table for rows with id and file, some at a time, in the order of the rows, which is that of ids."""
    url = lake.table_url(table)
    for at in range(0, rows.num_rows, READ_AHEAD):
        part = rows.slice(at, READ_AHEAD)
        files = open_files(url, pc.unique(part["file"]).to_pylist(), schema)
        found = files.to_table(columns=["id", *columns], filter=id_filter(part["id"].to_pylist()))
        yield found.sort_by("id")


def id_filter(ids: Sequence[str]) -> pc.Expression:
    """A filter for some ids in order: their range too, by which Arrow skips row groups, as by many ids it does not."""
    id = pc.field("id")
    return (id >= ids[0]) & (id <= ids[-1]) & id.isin(pa.array(ids, pa.string()))
