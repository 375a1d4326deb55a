"""Append rows: many that a table may have already, or one that follows from the table's current rows."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data.lake.lake import Lake
from data.lake.schemas import bucket_of
from data.lake.sql import query
from data.lake.table import Table, write_file

SELECT_MISSING = """
    WITH known AS (SELECT present.id FROM present SEMI JOIN part USING (id))
    SELECT min(place) AS place FROM part ANTI JOIN known USING (id) GROUP BY id ORDER BY place
"""


def append_missing(lake: Lake, name: str, schema: pa.Schema, parts: Mapping[int, list[pa.Table]]) -> Counter[str]:
    """Append the rows of each bucket that a table lacks, the first of equal ids; counts them by what they are `of`."""
    table, new = lake.table_or_make(name, schema), Counter[str]()
    while True:
        written = {}
        for bucket in parts:
            part = pa.concat_tables(parts[bucket])
            asked = pa.table({"id": part["id"], "place": np.arange(part.num_rows)})
            lacking = part.take(query(SELECT_MISSING, part=asked, present=table.dataset(bucket))["place"])
            if lacking.num_rows:
                file = write_file(table.url, bucket, lacking.select(schema.names).cast(schema))
                written[file.path] = (file, Counter[str](lacking["of"].to_pylist()))
        landed = table.append([file for file, _ in written.values()]) if written else []
        for file in landed:
            new += written[file.path][1]
        if len(landed) == len(written):
            return new
        table.refresh()  # somebody else ingests too: plan again


def append_missing_rows(lake: Lake, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> int:
    """Append those of some rows that a table lacks. Returns how many."""
    if not rows:
        return 0
    table = pa.Table.from_pylist(rows, schema).append_column("of", pa.nulls(len(rows), pa.string()))
    buckets = np.array([bucket_of(row["id"], lake.config.buckets) for row in rows])
    return append_missing(
        lake, name, schema, {bucket: [part] for bucket, part in split_by_bucket(table, buckets)}
    ).total()


def append_row(
    lake: Lake,
    name: str,
    schema: pa.Schema,
    make_row: Callable[[Table], dict[str, Any]],
    metadata: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {},
) -> dict[str, Any]:
    """Append one row that follows from a table's current rows.

    The row is committed only to the state that it was made from. If another process commits first, it is made again.

    Args:
        make_row: the row, with an `id`, for the current state of the table; what it raises ends the append.
        metadata: the record that goes into the commit's metadata.

    Returns:
        The row as it was committed.
    """
    while True:
        table = lake.table_or_make(name, schema)
        row = make_row(table)
        file = write_file(table.url, bucket_of(row["id"], lake.config.buckets), pa.Table.from_pylist([row], schema))
        if table.replace([file], [], metadata(row)):
            return row


def split_by_bucket(rows: pa.Table, buckets: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Rows cut by their buckets, in their order."""
    order = np.argsort(buckets, kind="stable")
    rows, found = rows.take(pa.array(order)), np.unique(buckets[order], return_index=True)
    starts = found[1].tolist()
    for bucket, start, end in zip(found[0].tolist(), starts, [*starts[1:], rows.num_rows], strict=True):
        yield bucket, rows.slice(start, end - start)
