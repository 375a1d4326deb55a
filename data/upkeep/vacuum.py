"""Vacuum: removes files that no table version refers to. They are left by workers that failed or lost a race."""

import json
import time
from dataclasses import dataclass
from urllib.parse import unquote

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import DELTA_LOG, PROBE_PREFIX
from data.lake.table import Table

MIN_AGE = 24 * 3600.0  # seconds; a running build may be about to commit a younger file


@dataclass
class VacuumResult:
    """The files that were removed. In a dry run, these are the files that would be removed."""

    files: int = 0
    bytes: int = 0
    young: int = 0  # further files that are too young to be removed


def vacuum(lake: Lake, older_than: float = MIN_AGE, dry_run: bool = False) -> VacuumResult:
    """Remove unreferenced files. Every version of every table stays readable.

    Args:
        lake: the lake to clean.
        older_than: the minimum age in seconds of files that are removed.
        dry_run: count the files without removing them.
    """
    result, limit = VacuumResult(), time.time() - older_than
    for name in lake.table_names():
        table = lake.table(name)
        referenced = _referenced_paths(table)
        for path, size, modified_at in storage.list_details(table.url):
            if path.startswith(DELTA_LOG) or path in referenced or not path.startswith("bucket="):
                continue
            if modified_at > limit:
                result.young += 1
                continue
            result.files, result.bytes = result.files + 1, result.bytes + size
            if not dry_run:
                storage.remove(storage.join(table.url, path))
    for folder in storage.folders(lake.url):
        if folder.startswith(PROBE_PREFIX) and not dry_run:
            storage.remove(storage.join(lake.url, folder))
    return result


def _referenced_paths(table: Table) -> set[str]:
    """Return every path that any commit has added. The log has all paths, because lakes never truncate it."""
    paths, log = set(table.files()), storage.join(table.url, DELTA_LOG)
    for name in storage.files(log):
        if name.endswith(".json"):
            actions = (json.loads(line) for line in storage.read(storage.join(log, name)).splitlines())
            paths |= {unquote(action["add"]["path"]) for action in actions if "add" in action}
    return paths
