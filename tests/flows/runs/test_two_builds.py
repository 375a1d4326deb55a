"""Builds that get in each other's way: started at once, or retried while the first try still runs."""

import json
from pathlib import Path

import pytest

from data.build.pipeline import make_pipeline
from data.build.recipe import load_recipe
from data.engine.stage import make_plan
from data.lake.lake import Lake
from tests.command import finish, start_imagen
from tests.conftest import QUICK_RECIPE, content_of, write_recipe


def ids_of(lake: Lake, table: str) -> list[str]:
    return list(lake.table(table).dataset().to_table(columns=["id"])["id"].to_pylist())


@pytest.fixture
def contested_recipe(world: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path, world / "pairs.parquet", threshold=0.1, shard_rows=20, text=QUICK_RECIPE)


def test_two_builds_started_at_once_publish_every_row_once(
    lake: Lake, contested_recipe: Path, undisturbed: Lake, prefect_server: str
) -> None:
    words = ("build", str(contested_recipe), "--lake", lake.url, "--json")
    both = [start_imagen(*words, PREFECT_API_URL=prefect_server) for _ in range(2)]
    answers = [json.loads(finish(process).stdout) for process in both]
    assert {answer["kept"] for answer in answers} == {lake.table("datasets/shapes").count_rows()}
    for table in ("pairs", "images", "datasets/shapes"):
        ids = ids_of(lake, table)
        assert len(ids) == len(set(ids)), table
    assert content_of(lake, "shapes") == content_of(undisturbed, "shapes")


def test_a_retried_shard_whose_first_try_still_runs_is_committed_once(lake: Lake, contested_recipe: Path) -> None:
    pipeline = make_pipeline(lake, load_recipe(str(contested_recipe)))
    pipeline.ingest()
    stage = pipeline.stages[0]
    plan, late_plan = make_plan(lake, stage, 20), make_plan(lake, stage, 20)
    shard = plan.shards[0]
    first, retried = stage.work(shard), stage.work(shard)
    assert plan.commit([retried]) == 0
    assert late_plan.commit([first]) == 0, "its pictures are the same files, and its attempts are there already"
    planned, stored = shard.rows["id"].to_pylist(), ids_of(lake, "images")
    assert sorted(ids_of(lake, "fetches")) == sorted(planned)
    assert len(stored) == len(set(stored))
    assert set(stored) <= set(planned)
