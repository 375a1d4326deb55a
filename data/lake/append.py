"""Appends rows to a table: many rows, some of which may be there already, or one row made from the current rows."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake.exceptions import CommitFailedError

from data.lake.lake import Lake
from data.lake.schemas import bucket_of
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.lake.table import COMMIT_TRIES, Table

SELECT_MISSING = """
    WITH known AS (SELECT present.id FROM present SEMI JOIN part USING (id))
    SELECT min(place) AS place FROM part ANTI JOIN known USING (id) GROUP BY id ORDER BY place
"""


def append_missing(lake: Lake, name: str, schema: pa.Schema, parts: Mapping[int, list[pa.Table]]) -> Counter[str]:
    """Append the rows whose id is not in the table yet. Of several rows with the same id, the first is appended.

    Args:
        parts: The rows of each bucket, with the schema's columns and a column `of`, by which appended rows are counted.

    Returns:
        The number of appended rows for each value of `of`.
    """
    table, appended = lake.table_or_make(name, schema), Counter[str]()
    while True:
        written = {}
        for bucket in parts:
            part = pa.concat_tables(parts[bucket])
            ids = pa.table({"id": part["id"], "place": np.arange(part.num_rows)})
            missing = part.take(query(SELECT_MISSING, part=ids, present=table.dataset(bucket))["place"])
            if missing.num_rows:
                file = write_file(table.url, bucket, missing.select(schema.names).cast(schema))
                written[file.path] = (file, Counter[str](missing["of"].to_pylist()))
        landed = table.append([file for file, _ in written.values()]) if written else []
        for file in landed:
            appended += written[file.path][1]
        if len(landed) == len(written):
            return appended
        table.refresh()  # another process appended some of the same rows: plan again


def append_missing_rows(lake: Lake, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> int:
    """Append the rows whose id is not in the table yet, and return their number."""
    if not rows:
        return 0
    table = pa.Table.from_pylist(rows, schema).append_column("of", pa.nulls(len(rows), pa.string()))
    buckets = np.array([bucket_of(row["id"], lake.config.buckets) for row in rows])
    parts = {bucket: [part] for bucket, part in split_by_bucket(table, buckets)}
    return append_missing(lake, name, schema, parts).total()


def append_row(
    lake: Lake,
    name: str,
    schema: pa.Schema,
    make_row: Callable[[Table], dict[str, Any]],
    metadata: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {},
) -> dict[str, Any]:
    """Append one row that is made from a table's current rows.

    The row is committed only on top of the table state that it was made from. If another process commits first, the row
    is made again.

    Args:
        make_row: Returns the row, with an `id`, for the current state of the table. Its exceptions end the append.
        metadata: Returns the record to store with the commit.

    Returns:
        The row as it was committed.

    Raises:
        CommitFailedError: COMMIT_TRIES races in a row were lost, or the store refuses the commit.
    """
    for _ in range(COMMIT_TRIES):
        table = lake.table_or_make(name, schema)
        row = make_row(table)
        file = write_file(table.url, bucket_of(row["id"], lake.config.buckets), pa.Table.from_pylist([row], schema))
        if table.replace([file], [], metadata(row)):
            return row
    raise CommitFailedError(f"{name}: lost {COMMIT_TRIES} races in a row")


def split_by_bucket(rows: pa.Table, buckets: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Split rows by bucket. Buckets are yielded in order, and the rows of a bucket keep their order."""
    order = np.argsort(buckets, kind="stable")
    rows = rows.take(pa.array(order))
    present, first = np.unique(buckets[order], return_index=True)
    starts = first.tolist()
    for bucket, start, end in zip(present.tolist(), starts, [*starts[1:], rows.num_rows], strict=True):
        yield bucket, rows.slice(start, end - start)
