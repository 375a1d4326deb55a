"""Remove files that no state of a table names: what killed, retried or beaten workers left behind."""

import json
import time
from dataclasses import dataclass
from urllib.parse import unquote

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import DELTA_LOG, PROBE_PREFIX
from data.lake.table import Table

YOUNG = 24 * 3600.0  # seconds; a younger file may belong to a build that is about to commit it


@dataclass
class Vacuumed:
    """`young` are left alone for now."""

    files: int = 0
    bytes: int = 0
    young: int = 0


def vacuum(lake: Lake, older_than: float = YOUNG, dry_run: bool = False) -> Vacuumed:
    """Every dataset version stays readable: a file that any state in the log names is kept."""
    found, limit = Vacuumed(), time.time() - older_than
    for name in lake.table_names():
        table = lake.table(name)
        named = _ever_named(table)
        for path, size, at in storage.list_details(table.url):
            if path.startswith(DELTA_LOG) or path in named or not path.startswith("bucket="):
                continue
            if at > limit:
                found.young += 1
                continue
            found.files, found.bytes = found.files + 1, found.bytes + size
            if not dry_run:
                storage.remove(storage.join(table.url, path))
    for folder in storage.folders(lake.url):
        if folder.startswith(PROBE_PREFIX) and not dry_run:
            storage.remove(storage.join(lake.url, folder))
    return found


def _ever_named(table: Table) -> set[str]:
    """Every path that a commit has named. The log is kept as long as its table."""
    named, log = set(table.files()), storage.join(table.url, DELTA_LOG)
    for name in storage.files(log):
        if name.endswith(".json"):
            actions = (json.loads(line) for line in storage.read(storage.join(log, name)).splitlines())
            named |= {unquote(action["add"]["path"]) for action in actions if "add" in action}
    return named
