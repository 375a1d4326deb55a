"""A dataset that grew by increments is the dataset that one build of the same pairs gives, whatever came when.

Which of two duplicates stays is decided by when each was first seen, so the one build gets a lake whose `pairs` say so.
Pairs that an origin keeps waiting are left out: a loaded machine must not decide what arrives.
"""

import random
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.build.build import build
from data.build.dry_run import pending_rows
from data.build.pipeline import make_pipeline
from data.build.recipe import Recipe, load_recipe
from data.engine import stage
from data.engine.local import LocalEngine
from data.engine.pool import Engine
from data.lake.append import split_by_bucket
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, bucket_of, pair_id
from data.lake.shard_file import write_file
from data.world.make import HOST, make_world
from data.world.server import OriginProcess, start_process
from tests.bench.increment import files_of, needless
from tests.conftest import UNSEEN_SEED, content_of
from tests.data.conftest import recipe_for
from tests.engines import InProcessEngine

START = datetime(2026, 1, 1, tzinfo=UTC)
SLOW = ("timeout", "drip")
FACTS = ("images", "fetches", "scores")  # what doesn't depend on when a pair was first seen

Pair = tuple[str, str]
Increments = list[list[Pair]]


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.nightly), 4])
def workers(request: pytest.FixtureRequest) -> Iterator[LocalEngine]:
    with LocalEngine(request.param) as engine:
        yield engine


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_whatever_came_when_the_last_version_holds_what_one_build_publishes(
    built: Lake, world: Path, engine: LocalEngine, tmp_path: Path, seed: int
) -> None:
    """Pictures and scores are copied, pairs come bit by bit: only what is published could depend on the order."""
    parts = split(pairs_of(world), 2 + seed, seed)
    grown, recipe = lake_of_facts(built, tmp_path / "grown"), recipe_of(tmp_path)
    for number, part in enumerate(parts):
        fill(grown, [[]] * number + [part])
        before = files_of(grown) if number else {}
        build(grown, recipe, engine)
        assert before.keys() <= files_of(grown).keys(), "rows only came, so no file goes"
    assert grown.table("datasets/shapes").version == len(parts)
    assert content_of(grown, "shapes") == content_of(at_once(built, parts, engine, tmp_path), "shapes")


def test_another_threshold_leaves_the_files_of_which_no_row_changed(
    built: Lake, world: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    parts, lake = split(pairs_of(world), 4, seed=4), lake_of_facts(built, tmp_path / "lake")
    for number, part in enumerate(parts):
        fill(lake, [[]] * number + [part])
        build(lake, recipe_of(tmp_path), engine)
    before = files_of(lake)
    done = build(lake, recipe_of(tmp_path, "select.clip_score.min=0.36"), engine)
    after = files_of(lake)
    assert done.removed
    assert before.keys() & after.keys(), "every file lost a row, so nothing is shown"
    assert needless(before, after) == 0


def test_what_is_planned_bit_by_bit_is_done_once(
    built: Lake, world: Path, origin: OriginProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PLAN_ROWS", 30)
    plans: list[tuple[str, int, int | None]] = []
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    pipeline = make_pipeline(lake, recipe_for(world))
    pipeline.ingest()
    assert pending_rows(lake, recipe_for(world))["download"] == lake.table("pairs").count_rows()
    for each in pipeline.stages:
        stage.run_stage(
            lake,
            each,
            InProcessEngine(),
            40,
            on_plan=lambda plan: plans.append((plan.stage.name, plan.rows, plan.next_bucket)),
        )
    downloads = [rows for name, rows, _ in plans if name == "download"]
    assert len(downloads) == len(lake.buckets)
    assert sum(downloads) == lake.table("pairs").count_rows()
    assert build(lake, recipe_for(world), InProcessEngine()).version == 1
    assert content_of(lake, "shapes") == content_of(built, "shapes", 1)


def test_increments_give_the_version_that_one_build_gives(
    built: Lake, world: Path, origin: OriginProcess, engine: LocalEngine, workers: LocalEngine, tmp_path: Path
) -> None:
    parts = split(pairs_of(world), 3, workers.workers)
    for before, after in pairwise(parts):
        after += before[:5]  # what is seen again stays as it was first seen
    grown = by_increments(parts, origin, workers, tmp_path)
    at_once_lake = at_once(built, parts, engine, tmp_path)
    assert first_seen(grown) == first_seen(at_once_lake)
    assert any("unique" in reason for reason in reasons(at_once_lake)), "no duplicate, so nothing depends on the order"
    assert reasons(grown) == reasons(at_once_lake)
    assert content_of(grown, "shapes") == content_of(at_once_lake, "shapes")


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_ten_increments_of_a_thousand_give_the_version_that_one_build_gives(tmp_path: Path) -> None:
    make_world(tmp_path / "world", 10_400, UNSEEN_SEED)
    parts = split(pairs_of(tmp_path / "world")[:10_000], 10, seed=10)
    assert [len(part) for part in parts] == [1000] * 10
    with start_process(tmp_path / "world") as origin:
        full = Lake.make(str(tmp_path / "whole"), hosts={HOST: origin.address})
        fill(full, parts)
        with LocalEngine() as engine:
            build(full, recipe_of(tmp_path), engine)
        wanted, verdicts = content_of(full, "shapes"), reasons(full)
        assert len(wanted) > 4000
        for number in (1, 4):
            with LocalEngine(number) as engine:
                grown = by_increments(parts, origin, engine, tmp_path / str(number))
            assert first_seen(grown) == first_seen(full)
            assert reasons(grown) == verdicts
            assert content_of(grown, "shapes") == wanted


def by_increments(parts: Increments, origin: OriginProcess, engine: Engine, folder: Path) -> Lake:
    """A lake built once for each part, as a nightly build does."""
    lake = Lake.make(str(folder / "grown"), hosts={HOST: origin.address})
    recipe = recipe_of(folder)
    for number, part in enumerate(parts):
        columns = {"url": [url for url, _ in part], "caption": [caption for _, caption in part]}
        (folder / "sources").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / f"sources/{number}.parquet")
        make_pipeline(lake, recipe).ingest(START + timedelta(days=number))
        build(lake, recipe, engine)
    return lake


def at_once(built: Lake, parts: Increments, engine: Engine, folder: Path) -> Lake:
    """One build of all pairs, with the pictures and scores of `built`."""
    lake = lake_of_facts(built, folder / "whole")
    fill(lake, parts)
    assert build(lake, recipe_of(folder), engine).version == 1
    return lake


def lake_of_facts(built: Lake, folder: Path) -> Lake:
    for name in FACTS:
        shutil.copytree(f"{built.url}/{name}", folder / name)
    lake = Lake(str(folder), built.config)
    lake.save()
    return lake


def fill(lake: Lake, parts: Increments) -> None:
    """Write pairs; each was first seen on the day of its part."""
    days: dict[Pair, int] = {}
    for number, part in enumerate(parts):
        for pair in part:
            days.setdefault(pair, number)
    rows = [
        {"id": pair_id(*pair), "url": pair[0], "caption": pair[1], "first_seen": START + timedelta(days=day)}
        for pair, day in days.items()
    ]
    table = lake.table_or_make("pairs", PAIRS)
    of = pa.array([bucket_of(str(row["id"]), lake.config.buckets) for row in rows], pa.int64()).to_numpy()
    pairs = pa.Table.from_pylist([{**row, "source": "given"} for row in rows], PAIRS)
    table.append([write_file(table.url, bucket, part) for bucket, part in split_by_bucket(pairs, of)])


def pairs_of(world: Path) -> list[Pair]:
    labels = pq.read_table(world / "labels.parquet", columns=["url", "caption", "origin"]).to_pylist()
    return [(row["url"], row["caption"]) for row in labels if row["origin"] not in SLOW]


def split(pairs: list[Pair], parts: int, seed: int) -> Increments:
    """Pairs dealt into parts of equal size, in any order."""
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    return [shuffled[number::parts] for number in range(parts)]


def recipe_of(folder: Path, *changes: str) -> Recipe:
    """The shipped recipe over the files in a folder's `sources`."""
    (folder / "sources").mkdir(parents=True, exist_ok=True)
    if not any((folder / "sources").iterdir()):
        pq.write_table(
            pa.table({"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}),
            folder / "sources/none.parquet",
        )
    return load_recipe("shapes", (f"{folder}/sources/*.parquet",), ("shard_rows=40", "download.timeout=30", *changes))


def first_seen(lake: Lake) -> dict[str, datetime]:
    pairs = lake.table("pairs").dataset().to_table(columns=["id", "first_seen"])
    return dict(zip(*(column.to_pylist() for column in pairs.columns), strict=True))


def reasons(lake: Lake) -> list[str]:
    """Every verdict as a line."""
    return sorted(
        f"{row['id']} {row['reasons']}" for row in lake.table("verdicts/shapes").dataset().to_table().to_pylist()
    )
