"""A build under Prefect, from the command line as a user runs it: what it publishes, and what a second one does."""

import json
import re
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image

from data.lake.lake import Lake
from data.report.write import last_build_at
from data.world.check import caption_is_true
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.command import Command, Finished, run_imagen
from tests.conftest import write_recipe
from tests.servers.prefect_api import artifacts_of, request, runs_in_lake, subflow_runs
from tests.shared import copy_of

NOTHING_DONE = {"download": 0, "look": 0, "score-clip": 0, "embed-t5": 0}
COLUMNS = {
    *("id", "url", "caption", "image", "width", "height", "sha256"),
    *("clip_score", "t5_embedding", "t5_length"),
}


@pytest.fixture(scope="module")
def shapes_recipe(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), world / "pairs.parquet")


@pytest.fixture(scope="module")
def built_shapes(
    tmp_path_factory: pytest.TempPathFactory, shapes_recipe: Path, origin: OriginProcess, tracked_imagen: Command
) -> Lake:
    """shapes@1, built by the command. Not to be changed: ask for `shapes`."""
    lake = Lake.make(str(tmp_path_factory.mktemp("built") / "lake"), hosts={HOST: origin.address})
    finished = tracked_imagen("build", str(shapes_recipe), "--lake", lake.url, "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["version"] == 1
    return lake


@pytest.fixture
def shapes(built_shapes: Lake, tmp_path: Path) -> Lake:
    """A copy of it for one test."""
    return copy_of(built_shapes, tmp_path / "lake")


def read_published(lake: Lake, *columns: str) -> list[dict[str, Any]]:
    return list(lake.table("datasets/shapes").dataset().to_table(columns=list(columns)).to_pylist())


def served_pictures(origin: OriginProcess) -> int:
    with urllib.request.urlopen(f"{origin.url}/.stats", timeout=5) as answer:
        return int(json.load(answer)["pictures"])


def test_other_tools_read_what_is_published(built_shapes: Lake) -> None:
    files = DeltaTable(f"{built_shapes.url}/datasets/shapes").file_uris()
    rows = duckdb.sql(f"SELECT * EXCLUDE (bucket) FROM read_parquet({files}) ORDER BY id").fetchall()
    loaded = datasets.load_dataset("parquet", data_files=files, split="train")
    assert set(loaded.column_names) >= COLUMNS
    assert len(rows) == len(loaded) > 60
    sample = loaded[0]
    assert isinstance(sample["image"], Image.Image)
    assert sample["image"].size == (sample["width"], sample["height"])
    raw = DeltaTable(f"{built_shapes.url}/datasets/shapes").to_pyarrow_dataset().head(1).to_pylist()[0]
    assert Image.open(BytesIO(raw["image"]["bytes"])).size == (raw["width"], raw["height"])


def test_what_is_right_by_the_labels_is_kept_and_little_else(built_shapes: Lake, world: Path) -> None:
    labels = {row["id"]: row for row in pq.read_table(world / "labels.parquet").to_pylist()}
    right = {id for id, label in labels.items() if label["right"]}
    kept = {row["id"] for row in read_published(built_shapes, "id")}
    unique = {id for id in kept if labels[id]["fault"] not in ("exact_duplicate", "near_duplicate")}
    assert len(unique & right) >= 0.95 * len(right)
    assert len(unique & right) >= 0.95 * len(unique)


def test_pictures_in_odd_formats_are_kept_upright_and_in_their_colours(built_shapes: Lake, world: Path) -> None:
    formats = {row["id"]: row["format"] for row in pq.read_table(world / "labels.parquet").to_pylist()}
    odd = [row for row in read_published(built_shapes, "id", "caption", "image") if formats[row["id"]]]
    assert odd
    for row in odd:
        verdict = caption_is_true(Image.open(BytesIO(row["image"]["bytes"])), row["caption"])
        assert verdict.true, (formats[row["id"]], verdict)


def test_a_second_build_fetches_nothing_and_loads_no_model(
    shapes: Lake, shapes_recipe: Path, origin: OriginProcess, tracked_imagen: Command
) -> None:
    served, first = served_pictures(origin), last_build_at(shapes, "shapes")
    finished = tracked_imagen("build", str(shapes_recipe), "--lake", shapes.url, "--json", PYTHONPROFILEIMPORTTIME="1")
    second = last_build_at(shapes, "shapes")
    assert first is not None
    assert second is not None
    assert first < second
    assert json.loads(finished.stdout) == {
        **{"dataset": "shapes", "version": 1, "new_pairs": 0, "rows": NOTHING_DONE},
        **{"kept": shapes.table("datasets/shapes").count_rows(), "added": 0, "removed": 0, "changed": 0},
        **{"report": f"{shapes.url}/datasets/shapes/report.html", "warning": None},
    }
    assert served_pictures(origin) == served
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert {"flows.runs.rebuild", "torch", "open_clip", "transformers"} & imported == {"flows.runs.rebuild"}


@pytest.fixture(scope="module")
def rebuilt(
    built_shapes: Lake,
    shapes_recipe: Path,
    world: Path,
    origin: OriginProcess,
    tracked_imagen: Command,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Lake, dict[str, Any], dict[str, Any], int]:
    """shapes@2 by a higher threshold and shapes@3 by the first one again: lake, both answers, pictures fetched."""
    folder = tmp_path_factory.mktemp("rebuilt")
    lake, before = copy_of(built_shapes, folder / "lake"), served_pictures(origin)
    strict = write_recipe(folder, world / "pairs.parquet", threshold=0.45)
    answers = [
        json.loads(tracked_imagen("build", str(path), "--lake", lake.url, "--json").stdout)
        for path in (strict, shapes_recipe)
    ]
    return lake, answers[0], answers[1], served_pictures(origin) - before


Rebuilt = tuple[Lake, dict[str, Any], dict[str, Any], int]


def test_a_higher_threshold_publishes_fewer_rows_and_touches_no_picture(rebuilt: Rebuilt, built_shapes: Lake) -> None:
    _, strict, _, fetched = rebuilt
    kept = built_shapes.table("datasets/shapes").count_rows()
    assert (strict["version"], strict["added"], strict["rows"]) == (2, 0, NOTHING_DONE)
    assert 0 < strict["kept"] < kept
    assert strict["removed"] == kept - strict["kept"]
    assert fetched == 0


def test_the_first_threshold_again_publishes_the_first_rows_again(rebuilt: Rebuilt, built_shapes: Lake) -> None:
    lake, strict, back, _ = rebuilt
    kept = built_shapes.table("datasets/shapes").count_rows()
    assert (back["version"], back["kept"], back["added"]) == (3, kept, strict["removed"])
    assert lake.table("datasets/shapes", 1).count_rows() == kept


def test_versions_are_listed_with_the_hash_of_their_recipe(rebuilt: Rebuilt, tmp_path: Path) -> None:
    listed = json.loads(run_imagen("versions", "shapes", "--lake", rebuilt[0].url, "--json", folder=tmp_path).stdout)
    assert [version["version"] for version in listed] == [3, 2, 1]
    assert listed[0]["recipe_hash"] == listed[2]["recipe_hash"] != listed[1]["recipe_hash"]


@pytest.fixture
def gated(shapes: Lake, tracked_imagen: Command, tmp_path: Path, world: Path) -> Finished:
    """A build whose gate wants more rows than there are."""
    recipe = write_recipe(tmp_path, world / "pairs.parquet", threshold=0.45)
    recipe.write_text(recipe.read_text() + "gates:\n  rows: {min: 1000}\n")
    return tracked_imagen("build", str(recipe), "--lake", shapes.url, "--json")


def test_a_closed_gate_publishes_nothing_and_says_why_in_one_line(
    gated: Finished, shapes: Lake, built_shapes: Lake
) -> None:
    assert gated.returncode == 2
    (line,) = gated.stderr.splitlines()
    assert re.match(
        r"Error: shapes was not published: \d+ rows are below gates\.rows\.min 1,000; shapes@\d+ stays", line
    )
    assert shapes.table("datasets/shapes").version == built_shapes.table("datasets/shapes").version
    reports = [Path(lake.url, "datasets/shapes/report.html").read_text() for lake in (shapes, built_shapes)]
    assert reports[0] == reports[1]


@pytest.fixture(scope="module")
def run(built_shapes: Lake, prefect_server: str) -> dict[str, Any]:
    """The run of the first build."""
    (run,) = runs_in_lake(prefect_server, "rebuild", built_shapes.url)
    return run


def test_a_run_is_named_after_its_recipe(run: dict[str, Any]) -> None:
    assert (run["name"], run["state_type"]) == ("rebuild-recipe", "COMPLETED")


def test_every_batch_is_a_task_with_its_stage_and_number(run: dict[str, Any], prefect_server: str) -> None:
    stages = [stage["id"] for stage in subflow_runs(prefect_server, run["id"])]
    tasks = request(f"{prefect_server}/task_runs/filter", {"flow_runs": {"id": {"any_": stages}}})
    names = {task["name"] for task in tasks}
    assert {"download-00000", "look-00000", "score-clip-00000", "embed-t5-00000", "publish-00000"} <= names


def test_the_funnel_is_an_artifact_of_the_run(run: dict[str, Any], prefect_server: str) -> None:
    steps = json.loads(artifacts_of(prefect_server, [run["id"]])["funnel-shapes"]["data"])
    assert steps[0]["step"] == "pairs"
    assert steps[-1]["step"] == "clip_score"
