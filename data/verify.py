"""Is a version what it says it is? Its selection again, from the tables that its lineage names, and its files again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from data import storage
from data.errors import ModelError
from data.forget import rewritten_files
from data.lake import Lake
from data.recipe import Recipe
from data.select import Judgement, Selection
from data.table import Table, digest
from data.versions import Version, version_of

AT_ONCE = 8  # files that are read


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
    for bucket, kept in _selected(lake, version):
        here = [path for path, (of, _) in table.files().items() if of == bucket and path in whole]
        there = set(table.dataset(paths=here).to_table(columns=["id"])["id"].to_pylist())
        found.rows += len(there)
        found.extra += sorted(there - kept)
        if len(whole) == len(paths):  # otherwise nobody knows what is missing
            found.missing += sorted(kept - there)
    return found


def _selected(lake: Lake, version: Version) -> Iterator[tuple[int, set[str]]]:
    """What the version's recipe keeps of the pairs and facts that it was made of, bucket by bucket."""
    recipe, read = Recipe.model_validate(version.record["recipe"]), version.record["inputs"]
    selection = Selection(recipe.name, recipe.criteria, recipe.judged)
    inputs = {}
    for name, table in selection.tables().items():
        if table not in read:
            raise ModelError(
                f"{version.dataset}@{version.version} was not made of {table}: the weights of {name} have changed since"
            )
        inputs[name] = lake.table(table, read[table])
    cuts = lake.table(selection.table, read[selection.table]).record().get("cuts", {})
    with Judgement(lake.buckets, selection, inputs, cuts) as judgement:
        for bucket in lake.buckets:
            verdicts = judgement.verdicts(bucket)
            yield bucket, set(verdicts.filter(verdicts["kept"])["id"].to_pylist())


def _state(table: Table, rewritten: dict[str, str], path: str) -> str | None:
    """What is wrong with a file, whose name is the hash of what it held when it was written."""
    try:
        content = storage.read(storage.join(table.url, path))
    except FileNotFoundError:
        return "absent"
    if path.endswith(f"/{digest(content)}.parquet"):
        return None
    return "rewritten" if rewritten.get(f"{table.name}/{path}") == digest(content) else "damaged"
