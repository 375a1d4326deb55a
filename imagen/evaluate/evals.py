"""The table `evals`: every figure that was ever measured, with all that it follows from."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from data.lake.lake import Lake
from data.lake.schemas import bucket_of
from data.lake.shard_file import write_file

TABLE = "evals"
EVALS = pa.schema(
    {
        "id": pa.string(),  # of all that the figure follows from
        "model": pa.string(),
        "digest": pa.string(),  # of the model's weights
        "dataset": pa.string(),
        "version": pa.int32(),
        "suite": pa.string(),
        "suite_id": pa.string(),
        "asking": pa.string(),  # where its pictures lie, under evaluations/
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
    """Rows by their ids: some, or all."""
    table = lake.find(TABLE)
    if table is None:
        return {}
    found = table.dataset().to_table() if ids is None else table.find_rows(ids, table.file_schema().names)
    return {row["id"]: row for row in found.to_pylist()}


def add_evals(lake: Lake, rows: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """Those that are not there yet, in one commit."""
    table = lake.table_or_make(TABLE, EVALS)
    while True:
        there = set(table.dataset().to_table(columns=["id"])["id"].to_pylist())
        files = []
        for bucket in lake.buckets:
            missing = (row for row in rows if row["id"] not in there)
            own = [row for row in missing if bucket_of(row["id"], len(lake.buckets)) == bucket]
            files += [write_file(table.url, bucket, pa.Table.from_pylist(own, EVALS))] if own else []
        if not files or table.replace(files, [], metadata):
            return
