"""What a build costs that has little to do: 1 % new pairs, then another threshold, beside the full build before them.

All three in one process with warm workers, so that no process's start and no model's loading is in any of them. And
whether a published file was written again although every row of it stayed as it was.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data.build.build import build
from data.build.recipe import Recipe, load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.world.make import HOST, has_world, make_world
from data.world.server import start_process

PAIRS, SEED = 20_000, 31
STRICTER = ("select.clip_score.min=0.36",)

Files = dict[str, dict[str, str]]  # of a table: path → id → digest of the row


def rows(folder: Path, count: int = PAIRS) -> Iterator[tuple[str, float, float, bool, str]]:
    new = count // 100
    if not has_world(folder / "world", count + new, SEED):
        make_world(folder / "world", count + new, SEED)
    pairs, sources = pq.read_table(folder / "world/pairs.parquet"), folder / "sources"
    sources.mkdir()
    recipe, stricter = (load_recipe("shapes", (f"{sources}/*.parquet",), change) for change in ((), STRICTER))
    with start_process(folder / "world") as origin, LocalEngine() as engine:
        pq.write_table(pairs.slice(0, 200), folder / "warm.parquet")
        warm = load_recipe("shapes", (str(folder / "warm.parquet"),))
        build(Lake.make(str(folder / "warm"), hosts={HOST: origin.address}), warm, engine)
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        pq.write_table(pairs.slice(0, count), sources / "first.parquet")
        full, _ = built(lake, recipe, engine)
        pq.write_table(pairs.slice(count), sources / "more.parquet")
        for what, changed, bound in (("1 % new pairs", recipe, 0.05), ("another threshold", stricter, 0.03)):
            before, commits = files_of(lake), commits_of(lake)
            seconds, summary = built(lake, changed, engine)
            after = files_of(lake)
            commits = commits_of(lake) - commits
            note = f"{seconds:.2f} of {full:.1f} s; {summary}; {moved(before, after)}; {commits} commits"
            yield f"{what}: time beside the full build's", seconds / full, bound, False, note
            yield f"{what}: files written again without a changed row", needless(before, after), 0, False, ""


def built(lake: Lake, recipe: Recipe, engine: LocalEngine) -> tuple[float, str]:
    """Seconds of a build, and what it did."""
    began = time.perf_counter()
    done = build(lake, recipe, engine)
    took = time.perf_counter() - began
    return took, f"{done.new_pairs} new pairs, +{done.added} −{done.removed} of {done.kept} rows"


def files_of(lake: Lake) -> Files:
    """Every file of the newest version with its rows."""
    table, files = lake.table("datasets/shapes"), {}
    for path in table.files():
        table_rows = table.dataset(paths=[path]).to_table().to_pylist()
        files[path] = {row["id"]: hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest() for row in table_rows}
    return files


def needless(before: Files, after: Files) -> int:
    """How many files were removed although all their rows still exist, unchanged."""
    now = {id: digest for rows in after.values() for id, digest in rows.items()}
    gone = [rows for path, rows in before.items() if path not in after]
    return sum(all(now.get(id) == digest for id, digest in rows.items()) for rows in gone)


def commits_of(lake: Lake) -> int:
    return sum(lake.table(name).version for name in lake.table_names())


def moved(before: Files, after: Files) -> str:
    """What was written for it, in words."""
    new = [rows for path, rows in after.items() if path not in before]
    unchanged = sum(path in after for path in before)
    return f"{len(new)} files with {sum(map(len, new))} rows written, {unchanged} stayed"
