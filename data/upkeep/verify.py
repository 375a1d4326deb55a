"""Verifies a dataset version: repeats its selection from the table versions in its lineage, and checks its files."""

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

READ_THREADS = 8
DUPLICATE_OF = re.compile(r": (?:same as|like) ([0-9a-f]{32})$")  # the end of a reason that names another pair


@dataclass
class VerifyResult:
    """The differences between a version and its lineage. If there are none, all lists except the last two are empty."""

    version: int
    rows: int = 0  # rows that were compared
    files: int = 0
    missing: list[str] = field(default_factory=list)  # pairs that the recipe keeps and the version lacks
    extra: list[str] = field(default_factory=list)  # pairs that the version has and the recipe does not keep
    damaged: list[str] = field(default_factory=list)  # files whose bytes have changed
    absent: list[str] = field(default_factory=list)  # files that are gone
    rewritten: list[str] = field(default_factory=list)  # files that `forget` has rewritten; not a difference
    regrouped: list[str] = field(default_factory=list)  # pairs whose duplicate was forgotten; not a difference

    @property
    def same(self) -> bool:
        """Whether the version agrees with its lineage."""
        return not (self.missing or self.extra or self.damaged or self.absent)


def verify(lake: Lake, dataset: str, number: int | None = None) -> VerifyResult:
    """Verify a version of a dataset, by default the newest.

    Raises:
        DatasetNotFound: the lake has no such dataset.
        DatasetVersionNotFound: the dataset has no such version.
        ModelError: the weights of a scorer have changed, so the selection can't be repeated.
    """
    version = version_of(lake, dataset, number)
    table = lake.table(f"datasets/{dataset}", version.version)
    result = VerifyResult(version.version)
    paths = sorted(table.files())
    result.files = len(paths)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        states = pool.map(partial(_state_of_file, table, rewritten_files(lake)), paths)
        for path, state in zip(paths, states, strict=True):
            if state == "rewritten":
                result.rewritten.append(path)
            elif state == "absent":
                result.absent.append(path)
            elif state == "damaged":
                result.damaged.append(path)
    readable = {*paths} - {*result.absent, *result.damaged}
    reasons: dict[str, str] = {}  # id of a pair that differs → reason why one of the two selections dropped it
    for bucket, verdicts, recorded_verdicts in _repeat_selection(lake, version):
        kept = set(verdicts.filter(verdicts["kept"])["id"].to_pylist())
        bucket_paths = [path for path, (of, _) in table.files().items() if of == bucket and path in readable]
        published = set(table.dataset(paths=bucket_paths).to_table(columns=["id"])["id"].to_pylist())
        result.rows += len(published)
        extra = sorted(published - kept)
        missing = sorted(kept - published) if len(readable) == len(paths) else []  # unreadable files may have them
        reasons |= _reasons_of(verdicts, extra) | _reasons_of(recorded_verdicts.dataset(bucket).to_table(), missing)
        result.extra, result.missing = [*result.extra, *extra], [*result.missing, *missing]
    _set_regrouped_apart(lake, result, reasons)
    return result


def _reasons_of(verdicts: pa.Table, ids: list[str]) -> dict[str, str]:
    """Return the first reason of each dropped pair among some ids, keyed by id."""
    rows = verdicts.filter(pc.is_in(verdicts["id"], pa.array(ids, pa.string()))).to_pylist()
    return {row["id"]: row["reasons"][0] for row in rows if row["reasons"]}


def _set_regrouped_apart(lake: Lake, result: VerifyResult, reasons: dict[str, str]) -> None:
    """Move pairs from missing and extra to regrouped if they are duplicates of a forgotten pair.

    Without the forgotten pair, another one of its duplicates is kept. So duplicates of a regrouped pair are moved too.
    """
    duplicate_of = {id: match[1] for id, reason in reasons.items() if (match := DUPLICATE_OF.search(reason))}
    known = set(lake.table("pairs").find_rows(duplicate_of.values(), ["id"])["id"].to_pylist())
    explained = set(duplicate_of.values()) - known
    while more := {id for id, other in duplicate_of.items() if other in explained} - explained:
        explained |= more
    result.regrouped = sorted(explained & {*result.missing, *result.extra})
    result.missing = [id for id in result.missing if id not in explained]
    result.extra = [id for id in result.extra if id not in explained]


def _repeat_selection(lake: Lake, version: Version) -> Iterator[tuple[int, pa.Table, Table]]:
    """Yield each bucket with the verdicts of the version's recipe on its inputs, and the table of recorded verdicts."""
    recipe, inputs_read = Recipe.model_validate(version.record["recipe"]), version.record["inputs"]
    selection = Selection(recipe.name, recipe.criteria, recipe.selection_scorers)
    inputs = {}
    for name, table in selection.tables().items():
        if table not in inputs_read:
            raise ModelError(
                f"{version.dataset}@{version.version} was not made of {table}: the weights of {name} have changed "
                "since. Restore the weights of that time to verify it"
            )
        inputs[name] = lake.table(table, inputs_read[table])
    recorded = lake.table(selection.table, inputs_read[selection.table])
    with Judgement(lake.buckets, selection, inputs, recorded.last_record().get("cuts", {})) as judgement:
        for bucket in lake.buckets:
            yield bucket, judgement.verdicts(bucket), recorded


def _state_of_file(table: Table, rewritten: dict[str, str], path: str) -> str | None:
    """Return None if a file is unchanged since it was written, else `absent`, `rewritten` (by `forget`) or `damaged`.

    A file's name is the digest of its original content.
    """
    try:
        content = storage.read(storage.join(table.url, path))
    except FileNotFoundError:
        return "absent"
    if path.endswith(f"/{digest(content)}.parquet"):
        return None
    return "rewritten" if rewritten.get(f"{table.name}/{path}") == digest(content) else "damaged"
