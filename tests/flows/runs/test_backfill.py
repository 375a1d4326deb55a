"""The flow `backfill`: pictures that are in the lake are shown to a new scorer, a bucket at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.lake.lake import Lake
from tests.command import Command, Finished, module_path
from tests.lakes.empty import unprobed_lake
from tests.lakes.fetched import RECIPE, add_fetched_pairs, numbered_pairs
from tests.lakes.letters import write_letters
from tests.servers.prefect_api import runs_in_lake, subflow_runs

PAIRS = 60
CODE = """
import json, sys
from flows.runs.backfill import backfill
print(json.dumps(backfill(*sys.argv[1:3], sys.argv[3:])))
"""


@pytest.fixture(scope="module")
def backfill_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake, and a recipe that can be built from it."""
    folder = tmp_path_factory.mktemp("backfill")
    add_fetched_pairs(unprobed_lake(folder), folder / "pairs.parquet", numbered_pairs(PAIRS))
    (folder / "recipe.yaml").write_text(RECIPE.format(source=folder / "pairs.parquet", threshold=0.2))
    write_letters(folder)
    return folder


def build(folder: Path, tracked_imagen: Command) -> dict[str, int]:
    """The rows of each stage that a build did."""
    words = ("build", str(folder / "recipe.yaml"), "--lake", str(folder / "lake"), "--json")
    finished = tracked_imagen(*words, PYTHONPATH=module_path(folder))
    assert finished.returncode == 0, finished.stderr
    return dict(json.loads(finished.stdout)["rows"])


def backfill(folder: Path, server: str, *stages: str) -> Finished:
    words = [sys.executable, "-c", CODE, str(folder / "recipe.yaml"), str(folder / "lake"), *stages]
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": module_path(folder)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def backfilled(backfill_folder: Path, tracked_imagen: Command, prefect_server: str) -> Finished:
    """A backfill of a scorer that was added to the recipe after a build."""
    assert build(backfill_folder, tracked_imagen) == {"download": 0, "look": PAIRS - 2}
    recipe = backfill_folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("scores:\n", "scores:\n  letters: {scorer: letters.Letters}\n"))
    return backfill(backfill_folder, prefect_server, "score-letters")


def test_every_row_is_shown_to_the_new_scorer(backfilled: Finished) -> None:
    assert backfilled.returncode == 0, backfilled.stdout + backfilled.stderr
    assert json.loads(backfilled.stdout.splitlines()[-1]) == {"score-letters": PAIRS}


def test_each_bucket_is_a_run_of_its_own(backfilled: Finished, backfill_folder: Path, prefect_server: str) -> None:
    lake = Lake.open(str(backfill_folder / "lake"))
    runs = [run for run in runs_in_lake(prefect_server, "backfill", lake.url) if run["state_type"] == "COMPLETED"]
    names = {stage["name"] for stage in subflow_runs(prefect_server, runs[0]["id"])}
    assert names == {f"score-letters-of-{bucket}" for bucket in lake.buckets}


def test_the_next_build_has_nothing_left_to_score(
    backfilled: Finished, backfill_folder: Path, tracked_imagen: Command
) -> None:
    assert build(backfill_folder, tracked_imagen) == {"download": 0, "score-letters": 0, "look": 0}


def test_a_stage_that_the_recipe_has_not_is_refused(
    backfilled: Finished, backfill_folder: Path, prefect_server: str
) -> None:
    refused = backfill(backfill_folder, prefect_server, "score-words")
    assert "has no stage score-words. It has: score-letters, look" in refused.stdout + refused.stderr
