"""Lists the published versions of a dataset. Each has the record (counts and lineage) of the commit that made it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.lake.lake import Lake

RECENT = 20  # commits to search for the newest version; one of them made it, if there is a version


@dataclass(frozen=True)
class Version:
    """One published version of a dataset."""

    dataset: str
    version: int  # version of the table `datasets/<dataset>`
    at: datetime  # time of publication, UTC
    record: dict[str, Any]  # counts of rows, recipe and its hash, table versions read, code


def datasets(lake: Lake) -> list[str]:
    """List the names of the lake's datasets."""
    return [name.removeprefix("datasets/") for name in lake.table_names() if name.startswith("datasets/")]


def newest_version(lake: Lake, dataset: str, below: int | None = None) -> Version | None:
    """Return the newest version of a dataset, or None if there is none.

    With `below`, only versions with a smaller number count.
    """
    table = lake.find(f"datasets/{dataset}")
    if table is None:
        return None
    for number, at, record in table.records(limit=None if below else RECENT):
        if below is None or number < below:
            return _version(dataset, number, at, record)
    return None


def versions(lake: Lake, dataset: str) -> list[Version]:
    """List all versions of a dataset, newest first. Empty if its first build has not published yet.

    Raises:
        DatasetNotFound: the lake has no dataset of this name.
    """
    table = lake.find(f"datasets/{dataset}")
    if table is None:
        raise DatasetNotFound(f"{lake.url} has no dataset {dataset}. Build it: imagen build RECIPE --lake {lake.url}")
    return [_version(dataset, *commit) for commit in table.records()]


def version_of(lake: Lake, dataset: str, number: int | None = None) -> Version:
    """Return the version with the given number, or the newest version if no number is given.

    Raises:
        DatasetNotFound: the lake has no dataset of this name.
        DatasetVersionNotFound: the dataset has no such version, or none at all.
    """
    published = versions(lake, dataset)
    if not published:
        raise DatasetVersionNotFound(
            f"{dataset} in {lake.url} has no version yet. Build it: imagen build RECIPE --lake {lake.url}"
        )
    if number is None:
        return published[0]
    for version in published:
        if version.version == number:
            return version
    names = ", ".join(f"{dataset}@{version.version}" for version in published)
    raise DatasetVersionNotFound(f"{dataset}@{number} does not exist in {lake.url}; published versions: {names}")


def _version(dataset: str, number: int, at: int, record: dict[str, Any]) -> Version:
    return Version(dataset, number, datetime.fromtimestamp(at / 1000, UTC), record)
