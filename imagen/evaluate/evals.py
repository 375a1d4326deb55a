"""The table `evals`: every measured figure, with everything that it was computed from."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from data.lake.lake import Lake
from data.lake.schemas import bucket_of
from data.lake.shard_file import write_file

TABLE = "evals"
EVALS = pa.schema(
    {
        "id": pa.string(),  # a digest of all that the figure was computed from
        "model": pa.string(),
        "digest": pa.string(),  # of the model's weights
        "dataset": pa.string(),
        "version": pa.int32(),
        "suite": pa.string(),
        "suite_id": pa.string(),
        "asking": pa.string(),  # the id of the pictures: their folder under evaluations/
        "metric": pa.string(),
        "slice": pa.string(),
        "value": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "n": pa.int64(),
        "settings": pa.string(),  # JSON
        "seed": pa.int64(),
        "code": pa.string(),  # JSON: version and commit
        "made": pa.timestamp("us", tz="UTC"),
    }
)


def find_evals(lake: Lake, ids: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return rows of `evals`, keyed by id: those with the given ids that exist, or all rows if no ids are given."""
    table = lake.find(TABLE)
    if table is None:
        return {}
    rows = table.dataset().to_table() if ids is None else table.find_rows(ids, table.file_schema().names)
    return {row["id"]: row for row in rows.to_pylist()}


def add_evals(lake: Lake, rows: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """Add the rows whose ids `evals` does not have, in one commit. Adding rows again changes nothing.

    Args:
        metadata: the metadata of the commit.
    """
    table = lake.table_or_make(TABLE, EVALS)
    while True:
        existing_ids = set(table.dataset().to_table(columns=["id"])["id"].to_pylist())
        new_rows = [row for row in rows if row["id"] not in existing_ids]
        files = []
        for bucket in lake.buckets:
            bucket_rows = [row for row in new_rows if bucket_of(row["id"], len(lake.buckets)) == bucket]
            if bucket_rows:
                files.append(write_file(table.url, bucket, pa.Table.from_pylist(bucket_rows, EVALS)))
        if not files or table.replace(files, [], metadata):
            return
