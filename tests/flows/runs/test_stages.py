"""A batch that fails does not stop the others: tracked builds whose scorer breaks."""

import json
from pathlib import Path
from typing import Any

import pytest

from data.lake.lake import Lake
from tests.command import Command, Finished, module_path
from tests.lakes.empty import unprobed_lake
from tests.lakes.fetched import RECIPE, add_fetched_pairs, numbered_pairs
from tests.lakes.letters import write_letters
from tests.servers.prefect_api import artifacts_of, runs_in_lake, subflow_runs
from tests.shared import copy_of

PAIRS = 160
BROKEN = "picture number 7"
SMALL_PLANS = """
import pathlib
from data.engine import stage

stage.PLAN_ROWS = 30  # a bucket has more, so that each has a plan of its own
"""
SCORES = """scores:
  letters: {scorer: fragile.Letters}
  clip: {model: built-in}
"""
BREAK = """
if caption in pathlib.Path(__file__).with_name('broken').read_text().splitlines():
    raise RuntimeError('a bug of mine')
"""


def write_fragile_build(folder: Path, broken: list[str]) -> Lake:
    """A lake with fetched pairs, and a recipe whose scorer breaks on some captions."""
    lake, pairs = unprobed_lake(folder), numbered_pairs(PAIRS)
    add_fetched_pairs(lake, folder / "pairs.parquet", pairs)
    write_letters(folder, "fragile", SMALL_PLANS, BREAK)
    (folder / "broken").write_text("\n".join(broken))
    recipe = RECIPE.format(source=folder / "pairs.parquet", threshold=0.2) + "shard_rows: 10\n"
    (folder / "recipe.yaml").write_text(recipe.replace("scores:\n", SCORES))
    return lake


def build(folder: Path, lake: Lake, tracked_imagen: Command) -> Finished:
    words = ("build", str(folder / "recipe.yaml"), "--lake", lake.url, "--workers", "1", "--json")
    return tracked_imagen(*words, PYTHONPATH=module_path(folder))


def failures_of(lake: Lake, server: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run of a build that failed, and what its artifact lists as left undone."""
    (run,) = runs_in_lake(server, "rebuild", lake.url)
    return run, json.loads(artifacts_of(server, [run["id"]])["failed-small"]["data"])


@pytest.fixture(scope="module")
def fragile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fragile")


@pytest.fixture(scope="module")
def fragile_lake(fragile_folder: Path) -> Lake:
    """Not to be changed after its first build."""
    return write_fragile_build(fragile_folder, [BROKEN])


@pytest.fixture(scope="module")
def failed(fragile_folder: Path, fragile_lake: Lake, tracked_imagen: Command) -> Finished:
    """A build of which one batch failed."""
    return build(fragile_folder, fragile_lake, tracked_imagen)


def test_a_failed_batch_is_named_with_its_error(failed: Finished) -> None:
    assert failed.returncode == 2, failed.stderr
    line = failed.stderr.splitlines()[-1]
    assert "a batch of score-letters failed, 10 rows are left (score-letters-000" in line
    assert "RuntimeError: a bug of mine)" in line


def test_nothing_is_published_while_a_batch_is_left(failed: Finished, fragile_lake: Lake) -> None:
    assert fragile_lake.find("datasets/small") is None


def test_the_stages_after_a_failed_batch_are_done(failed: Finished, fragile_lake: Lake, prefect_server: str) -> None:
    run, (failure,) = failures_of(fragile_lake, prefect_server)
    states = {stage["name"]: stage["state_type"] for stage in subflow_runs(prefect_server, run["id"])}
    assert states == {"score-letters": "FAILED", "look": "COMPLETED", "score-clip": "COMPLETED"}
    assert (failure["stage"], failure["shards"], failure["rows"]) == ("score-letters", 1, 10)


def test_the_next_build_does_only_the_batch_that_was_left(
    failed: Finished, fragile_folder: Path, fragile_lake: Lake, tracked_imagen: Command, tmp_path: Path
) -> None:
    for name in ("fragile.py", "recipe.yaml"):
        (tmp_path / name).write_text((fragile_folder / name).read_text())
    (tmp_path / "broken").write_text("")
    mended = build(tmp_path, copy_of(fragile_lake, tmp_path / "lake"), tracked_imagen)
    assert mended.returncode == 0, mended.stderr
    answer = json.loads(mended.stdout)
    assert answer["version"] == 1
    assert answer["rows"] == {"download": 0, "score-letters": 10, "look": 0, "score-clip": 0}


def test_a_stage_that_fails_again_and_again_is_given_up(
    tmp_path: Path, tracked_imagen: Command, prefect_server: str
) -> None:
    lake = write_fragile_build(tmp_path, [caption for _, caption in numbered_pairs(PAIRS)])
    assert build(tmp_path, lake, tracked_imagen).returncode == 2
    _, rows = failures_of(lake, prefect_server)
    assert [row["shards"] for row in rows[:-1]] == [1] * 4  # three in a row, and one that was under way
    assert [row["tried"] for row in rows] == [True] * 4 + [False]
    assert rows[-1]["error"] == "not tried, because 3 batches in a row had failed"
    first = lake.table("pairs").dataset(min(lake.buckets)).count_rows()
    assert sum(row["rows"] for row in rows) == first, "no other bucket is begun"
