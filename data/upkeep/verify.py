"""Is a version what it says it is? Its selection again, from the tables that its lineage names, and its files again."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from data.build.recipe import Recipe
from data.errors import ModelError
from data.lake import storage
from data.lake.lake import Lake
from data.lake.shard_file import digest
from data.lake.table import Table
from data.publish.versions import Version, version_of
from data.select.judgement import Judgement
from data.select.selection import Selection
from data.upkeep.forget import rewritten_files

AT_ONCE = 8  # files that are read
LIKE = re.compile(r": (?:same as|like) ([0-9a-f]{32})$")  # a reason that names another pair


@dataclass
class Verified:
    """What differs; nothing, if the version is what it says it is."""

    version: int
    rows: int = 0
    files: int = 0
    missing: list[str] = field(default_factory=list)  # pairs that the recipe keeps and the version lacks
    extra: list[str] = field(default_factory=list)  # pairs that it holds and the recipe does not keep
    damaged: list[str] = field(default_factory=list)  # files whose bytes are not those that were written
    absent: list[str] = field(default_factory=list)  # files that are gone
    rewritten: list[str] = field(default_factory=list)  # files without what was forgotten since
    regrouped: list[str] = field(default_factory=list)  # pairs that differ only as one like them was forgotten

    @property
    def same(self) -> bool:
        return not (self.missing or self.extra or self.damaged or self.absent)


def verify(lake: Lake, dataset: str, number: int | None = None) -> Verified:
    version = version_of(lake, dataset, number)
    table = lake.table(f"datasets/{dataset}", version.version)
    found = Verified(version.version)
    paths = sorted(table.files())
    found.files = len(paths)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, state in zip(paths, pool.map(partial(_state, table, rewritten_files(lake)), paths), strict=True):
            if state == "rewritten":
                found.rewritten.append(path)
            elif state is not None:
                (found.absent if state == "absent" else found.damaged).append(path)
    whole = {*paths} - {*found.absent, *found.damaged}
    reasons: dict[str, str] = {}  # why those that differ were left out then, or would be now
    for bucket, verdicts, then in _selected(lake, version):
        kept = set(verdicts.filter(verdicts["kept"])["id"].to_pylist())
        here = [path for path, (of, _) in table.files().items() if of == bucket and path in whole]
        there = set(table.dataset(paths=here).to_table(columns=["id"])["id"].to_pylist())
        found.rows += len(there)
        extra = sorted(there - kept)
        missing = sorted(kept - there) if len(whole) == len(paths) else []  # otherwise nobody knows what is missing
        reasons |= _reasons(verdicts, extra) | _reasons(then.dataset(bucket).to_table(), missing)
        found.extra, found.missing = [*found.extra, *extra], [*found.missing, *missing]
    _regroup(lake, found, reasons)
    return found


def _reasons(verdicts: pa.Table, ids: list[str]) -> dict[str, str]:
    rows = verdicts.filter(pc.is_in(verdicts["id"], pa.array(ids, pa.string()))).to_pylist()
    return {row["id"]: row["reasons"][0] for row in rows if row["reasons"]}


def _regroup(lake: Lake, found: Verified, reasons: dict[str, str]) -> None:
    """Set those apart who were left out for a pair that is forgotten now, and who are for one of these."""
    like = {id: named[1] for id, reason in reasons.items() if (named := LIKE.search(reason))}
    known = set(lake.table("pairs").find_rows(like.values(), ["id"])["id"].to_pylist())
    explained = set(like.values()) - known
    while more := {id for id, other in like.items() if other in explained} - explained:
        explained |= more
    found.regrouped = sorted(explained & {*found.missing, *found.extra})
    found.missing = [id for id in found.missing if id not in explained]
    found.extra = [id for id in found.extra if id not in explained]


def _selected(lake: Lake, version: Version) -> Iterator[tuple[int, pa.Table, Table]]:
    """What the version's recipe says of the pairs and facts that it was made of, a bucket at a time; and said then."""
    recipe, read = Recipe.model_validate(version.record["recipe"]), version.record["inputs"]
    selection = Selection(recipe.name, recipe.criteria, recipe.selection_scorers)
    inputs = {}
    for name, table in selection.tables().items():
        if table not in read:
            raise ModelError(
                f"{version.dataset}@{version.version} was not made of {table}: the weights of {name} have changed since"
            )
        inputs[name] = lake.table(table, read[table])
    then = lake.table(selection.table, read[selection.table])
    with Judgement(lake.buckets, selection, inputs, then.last_record().get("cuts", {})) as judgement:
        for bucket in lake.buckets:
            yield bucket, judgement.verdicts(bucket), then


def _state(table: Table, rewritten: dict[str, str], path: str) -> str | None:
    """What is wrong with a file, whose name is the hash of what it held when it was written."""
    try:
        content = storage.read(storage.join(table.url, path))
    except FileNotFoundError:
        return "absent"
    if path.endswith(f"/{digest(content)}.parquet"):
        return None
    return "rewritten" if rewritten.get(f"{table.name}/{path}") == digest(content) else "damaged"
