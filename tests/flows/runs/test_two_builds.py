"""Builds that get in each other's way: started at once, or retried while the first try lives on."""

import json
import os
import subprocess
from pathlib import Path

from data.build.build import build
from data.build.pipeline import make_pipeline
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.engine.stage import make_plan
from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.conftest import content_of, write_recipe
from tests.flows.runs.test_rebuild import IMAGEN


def test_two_builds_started_at_once_publish_every_row_once(
    world: Path, origin: OriginProcess, prefect_server: str, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, world / "pairs.parquet", shard_rows=20)
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    command = [IMAGEN, "build", str(recipe), "--lake", lake.url, "--json"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    assert {one["kept"] for one in said} == {lake.table("datasets/shapes").count_rows()}
    for name in ("pairs", "images", "datasets/shapes"):
        ids = lake.table(name).dataset().to_table(columns=["id"])["id"].to_pylist()
        assert len(ids) == len(set(ids)), name
    with LocalEngine(2) as engine:
        alone = Lake.make(str(tmp_path / "alone"), hosts={HOST: origin.address})
        build(alone, load_recipe(str(recipe)), engine)
    assert content_of(lake, "shapes") == content_of(alone, "shapes")


def test_a_retried_shard_whose_first_try_lived_on_lands_once(lake: Lake, world: Path, tmp_path: Path) -> None:
    ways = make_pipeline(lake, load_recipe(str(write_recipe(tmp_path, world / "pairs.parquet"))))
    ways.ingest()
    stage = ways.stages[0]
    plan, late = make_plan(lake, stage, 20), make_plan(lake, stage, 20)
    shard = plan.shards[0]
    first, retried = stage.work(shard), stage.work(shard)
    assert plan.commit([retried]) == 0
    assert late.commit([first]) == 0, "the zombie's pictures are the same files; of its attempts nothing is there twice"
    ids = [row["id"] for row in shard.rows.to_pylist()]
    fetched = lake.table("fetches").dataset().to_table(columns=["id"])["id"].to_pylist()
    assert sorted(fetched) == sorted(ids)
    images = lake.table("images").dataset().to_table(columns=["id"])["id"].to_pylist()
    assert len(images) == len(set(images))
    assert set(images) <= set(ids)
