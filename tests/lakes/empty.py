"""A lake on a disk that is made at once, and what its tables hold, for the tests of sources."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.lake.lake import Lake, LakeConfig

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def unprobed_lake(folder: Path, buckets: int = 4) -> Lake:
    """A lake on a disk, without the race that shows what the store keeps."""
    lake = Lake(str(folder / "lake"), LakeConfig(buckets=buckets, made=NOW))
    lake.save()
    return lake


def rows_of(lake: Lake, table: str) -> list[dict[str, Any]]:
    return lake.table(table).dataset().to_table().to_pylist()


def stored_pairs(lake: Lake) -> list[tuple[str, str]]:
    return sorted((row["url"], row["caption"]) for row in rows_of(lake, "pairs"))


def reject_reasons(lake: Lake) -> list[tuple[int | None, str]]:
    return sorted(((row["row"], row["reason"]) for row in rows_of(lake, "rejects")), key=str)
