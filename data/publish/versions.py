"""What was published: the versions of a dataset with their lineage, and the funnel that a build's rows went through."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.lake.lake import Lake

RECENT = 20  # commits, among which there is one of a version if there is any


@dataclass(frozen=True)
class Version:
    dataset: str
    version: int
    at: datetime
    record: dict[str, Any]


def datasets(lake: Lake) -> list[str]:
    """The names of those that were published."""
    return [name.removeprefix("datasets/") for name in lake.tables() if name.startswith("datasets/")]


def newest(lake: Lake, dataset: str, below: int | None = None) -> Version | None:
    """The version that is current, or the one before another; none if nothing was published yet."""
    table = lake.find(f"datasets/{dataset}")
    found = table.records(limit=None if below else RECENT) if table else ()
    return next((_version(dataset, *one) for one in found if below is None or one[0] < below), None)


def versions(lake: Lake, dataset: str) -> list[Version]:
    """Every version of a dataset, newest first."""
    table = lake.find(f"datasets/{dataset}")
    if table is None:
        raise DatasetNotFound(f"{lake.url} has no dataset {dataset}. Build it: imagen build RECIPE --lake {lake.url}")
    return [_version(dataset, *found) for found in table.records()]


def version_of(lake: Lake, dataset: str, number: int | None = None) -> Version:
    """One version of a dataset, the newest unless told which."""
    found = versions(lake, dataset)
    if number is None and found:
        return found[0]
    for version in found:
        if version.version == number:
            return version
    if not found:
        raise DatasetVersionNotFound(f"{dataset} has no version yet in {lake.url}: its first build has not published")
    there = ", ".join(f"{dataset}@{version.version}" for version in found)
    raise DatasetVersionNotFound(f"{dataset}@{number} does not exist in {lake.url}; there are: {there}")


def _version(dataset: str, version: int, at: int, record: dict[str, Any]) -> Version:
    return Version(dataset, version, datetime.fromtimestamp(at / 1000, UTC), record)
