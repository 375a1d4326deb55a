"""A batch that fails takes nothing else with it: a real build, tracked, whose scorer breaks on one caption."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.conftest import RECIPE, write_recipe
from tests.servers.prefect_api import ask

IMAGEN = str(Path(sys.executable).with_name("imagen"))
FRAGILE = """
import pathlib
import pyarrow as pa
from data.engine import stage
from data.scorers.scorer import CaptionScorer

stage.PLAN_ROWS = 30  # a bucket has more, so that each has a plan of its own

class Fragile(CaptionScorer):
    columns = pa.schema({'letters': pa.int32()})

    def read(self, caption):
        broken = pathlib.Path(__file__).with_name('broken')
        if broken.exists() and caption == broken.read_text():
            raise RuntimeError('a bug of mine')
        return {'letters': len(caption)}
"""


def test_what_failed_is_told_when_the_rest_is_done_and_is_all_that_is_done_again(
    tmp_path: Path, world: Path, origin: OriginProcess, prefect_server: str
) -> None:
    caption = pq.read_table(world / "pairs.parquet")["caption"][0].as_py()
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "broken").write_text(caption)
    scored = RECIPE.replace("scores:\n", "scores:\n  letters: {{scorer: fragile.Fragile}}\n")
    recipe = write_recipe(tmp_path, world / "pairs.parquet", shard_rows=10, text=scored)
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(tmp_path)}
    words = [IMAGEN, "build", str(recipe), "--lake", lake.url, "--workers", "1", "--json"]

    def build() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)

    broken = build()
    assert broken.returncode == 2, broken.stderr
    said = broken.stderr.splitlines()[-1]
    assert "a batch of score-letters failed, 10 rows are left (score-letters-000" in said
    assert "RuntimeError: a bug of mine)" in said
    assert lake.find("datasets/shapes") is None
    (artifact,) = ask(f"{prefect_server}/artifacts/filter", {"artifacts": {"key": {"any_": ["failed-shapes"]}}})
    (row,) = json.loads(str(artifact["data"]))
    assert (row["stage"], row["shards"], row["rows"]) == ("score-letters", 1, 10)
    runs = ask(
        f"{prefect_server}/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [artifact["flow_run_id"]]}}}
    )
    states = {run["name"]: run["state_type"] for run in runs}
    assert states == {
        "download": "COMPLETED",
        "score-letters": "FAILED",
        "look": "COMPLETED",
        "score-clip": "COMPLETED",
    }

    (tmp_path / "broken").unlink()
    mended = build()
    assert mended.returncode == 0, mended.stderr
    told = json.loads(mended.stdout)
    assert told["version"] == 1
    assert {name: told["rows"][name] for name in ("download", "score-letters", "look", "score-clip")} == {
        **{"download": 0, "score-letters": 10, "look": 0, "score-clip": 0}
    }


def test_a_stage_that_does_not_work_at_all_is_given_up(
    tmp_path: Path, world: Path, origin: OriginProcess, prefect_server: str
) -> None:
    (tmp_path / "fragile.py").write_text(
        FRAGILE.replace("if broken.exists() and caption == broken.read_text()", "if True")
    )
    scored = RECIPE.replace("scores:\n", "scores:\n  letters: {{scorer: fragile.Fragile}}\n")
    recipe = write_recipe(tmp_path, world / "pairs.parquet", shard_rows=10, text=scored)
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(tmp_path)}
    words = [IMAGEN, "build", str(recipe), "--lake", lake.url, "--workers", "1", "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (artifact, *_) = ask(
        f"{prefect_server}/artifacts/filter",
        {"artifacts": {"key": {"any_": ["failed-shapes"]}}, "sort": "CREATED_DESC"},
    )
    rows = json.loads(str(artifact["data"]))
    assert [row["shards"] for row in rows[:-1]] == [1] * 4  # one was under way
    assert rows[-1]["error"] == "not tried, because 3 batches in a row had failed"
    assert [row["tried"] for row in rows] == [True] * 4 + [False]
    (first, *_) = lake.buckets
    assert sum(row["rows"] for row in rows) == lake.table("pairs").dataset(first).count_rows(), "no other is begun"


def test_a_backfill_scores_what_is_there_and_leaves_nothing_to_the_next_build(
    tmp_path: Path, world: Path, origin: OriginProcess, prefect_server: str
) -> None:
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    recipe = write_recipe(tmp_path, world / "pairs.parquet")
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PYTHONPATH": str(tmp_path)}

    def build() -> dict[str, int]:
        words = [IMAGEN, "build", str(recipe), "--lake", lake.url, "--json"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["rows"])

    def backfill(*stages: str) -> "subprocess.CompletedProcess[str]":
        code = "import json, sys; from flows.runs.backfill import backfill; "
        code += "print('=', json.dumps(backfill(*sys.argv[1:3], sys.argv[3:])))"
        words = [sys.executable, "-c", code, str(recipe), lake.url, *stages]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)

    first = build()
    (tmp_path / "fragile.py").write_text(FRAGILE)
    scored = RECIPE.replace("scores:\n", "scores:\n  letters: {{scorer: fragile.Fragile}}\n")
    write_recipe(tmp_path, world / "pairs.parquet", text=scored)
    wrong = backfill("score-words")
    assert "has no stage score-words. It has: score-letters, look, score-clip" in wrong.stdout + wrong.stderr
    done = backfill("score-letters")
    assert done.returncode == 0, done.stdout + done.stderr
    pairs = lake.table("pairs").count_rows()
    assert f'= {{"score-letters": {pairs}}}' in done.stdout
    assert build() == {**dict.fromkeys(first, 0), "score-letters": 0}
    runs = ask(f"{prefect_server}/flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}})
    assert {f"score-letters-of-{bucket}" for bucket in lake.buckets} <= {str(run["name"]) for run in runs}
