"""An empty lake on a disk, made in milliseconds, and functions that read back what tests put into a lake."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.lake.lake import Lake, LakeConfig

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def unprobed_lake(folder: Path, buckets: int = 4) -> Lake:
    """A lake on a disk, made without the test of the store, which takes a second."""
    lake = Lake(str(folder / "lake"), LakeConfig(buckets=buckets, made=NOW))
    lake.save()
    return lake


def rows_of(lake: Lake, table: str) -> list[dict[str, Any]]:
    """All rows of a table, in any order."""
    return lake.table(table).dataset().to_table().to_pylist()


def stored_pairs(lake: Lake) -> list[tuple[str, str]]:
    """URL and caption of every pair of the lake, sorted."""
    return sorted((row["url"], row["caption"]) for row in rows_of(lake, "pairs"))


def reject_reasons(lake: Lake) -> list[tuple[int | None, str]]:
    """Number and reason of every rejected row, sorted."""
    return sorted(((row["row"], row["reason"]) for row in rows_of(lake, "rejects")), key=str)
