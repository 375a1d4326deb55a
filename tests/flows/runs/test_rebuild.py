"""The whole way under Prefect, from the command line as a user runs it, killed and run again included."""

import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import datasets
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image

from data.lake.lake import Lake
from data.report.write import last_build_at
from data.world.check import caption_is_true
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.conftest import content_of, write_recipe
from tests.servers.prefect_api import ask

IMAGEN = str(Path(sys.executable).with_name("imagen"))
KILLS, KILLS_A_LAKE = 20, 5

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def imagen(prefect_server: str) -> Command:
    """Run the command with its runs tracked on a real server."""
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([IMAGEN, *words], env=environment | more, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess, prefect_server: str
) -> tuple[Lake, Path]:
    """A lake that was built without disturbance, and its recipe."""
    folder = tmp_path_factory.mktemp("built")
    recipe = write_recipe(folder, world / "pairs.parquet")
    lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    done = subprocess.run(
        [IMAGEN, "build", str(recipe), "--lake", lake.url, "--json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 1
    return lake, recipe


def test_what_is_published_opens_without_us(built: tuple[Lake, Path]) -> None:
    lake, _ = built
    files = DeltaTable(f"{lake.url}/datasets/shapes").file_uris()
    wanted = {"id", "url", "caption", "image", "width", "height", "sha256", "clip_score"} | {
        "t5_embedding",
        "t5_length",
    }
    rows = duckdb.sql(f"SELECT * EXCLUDE (bucket) FROM read_parquet({files}) ORDER BY id").fetchall()
    loaded = datasets.load_dataset("parquet", data_files=files, split="train")
    assert wanted <= set(loaded.column_names)
    assert len(rows) == len(loaded) > 60
    sample = loaded[0]
    assert isinstance(sample["image"], Image.Image)
    assert sample["image"].size == (sample["width"], sample["height"])
    raw = DeltaTable(f"{lake.url}/datasets/shapes").to_pyarrow_dataset().head(1).to_pylist()[0]
    assert Image.open(BytesIO(raw["image"]["bytes"])).size == (raw["width"], raw["height"])


def test_what_is_kept_is_right_by_the_labels(built: tuple[Lake, Path], world: Path) -> None:
    lake, _ = built
    labels = {row["id"]: row for row in pq.read_table(world / "labels.parquet").to_pylist()}
    kept = lake.table("datasets/shapes").dataset().to_table(columns=["id", "caption", "image"]).to_pylist()
    right = {id for id, label in labels.items() if label["right"]}
    counted = {row["id"] for row in kept if labels[row["id"]]["fault"] not in ("exact_duplicate", "near_duplicate")}
    assert len(counted & right) >= 0.95 * len(right)
    assert len(counted & right) >= 0.95 * len(counted)
    odd = [row for row in kept if labels[row["id"]]["format"]]
    assert odd, "upright, not bleached, not inverted: the pixels say what the caption says"
    for row in odd:
        verdict = caption_is_true(Image.open(BytesIO(row["image"]["bytes"])), row["caption"])
        assert verdict.true, (labels[row["id"]]["format"], verdict)


def test_the_second_build_fetches_nothing_and_loads_no_model(
    built: tuple[Lake, Path], origin: OriginProcess, imagen: Command
) -> None:
    lake, recipe = built
    before, first = requests(origin), last_build_at(lake, "shapes")
    done = imagen("build", str(recipe), "--lake", lake.url, "--json", PYTHONPROFILEIMPORTTIME="1")
    assert first is not None
    assert first < last_build_at(lake, "shapes")  # type: ignore[operator]
    assert json.loads(done.stdout) == {
        **{"dataset": "shapes", "version": 1, "new_pairs": 0},
        **{"rows": {"download": 0, "look": 0, "score-clip": 0, "embed-t5": 0}},
        **{"kept": lake.table("datasets/shapes").count_rows(), "added": 0, "removed": 0, "changed": 0},
        **{"report": f"{lake.url}/datasets/shapes/report.html", "warning": None},
    }
    assert requests(origin) == before
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "flows.runs.rebuild" in imported
    assert not {"torch", "open_clip", "transformers"} & imported


def test_a_changed_threshold_touches_no_picture_and_makes_a_version(
    built: tuple[Lake, Path], origin: OriginProcess, imagen: Command, tmp_path: Path, world: Path
) -> None:
    lake, recipe = built
    kept = lake.table("datasets/shapes").count_rows()
    before = requests(origin)
    (tmp_path / "strict").mkdir()
    strict = write_recipe(tmp_path / "strict", world / "pairs.parquet", threshold=0.45)
    said = json.loads(imagen("build", str(strict), "--lake", lake.url, "--json").stdout)
    assert said["version"] == 2
    assert said["kept"] < kept
    assert said["added"] == 0
    assert said["removed"] == kept - said["kept"]
    assert said["rows"] == {"download": 0, "look": 0, "score-clip": 0, "embed-t5": 0}
    back = json.loads(imagen("build", str(recipe), "--lake", lake.url, "--json").stdout)
    assert (back["version"], back["kept"], back["added"]) == (3, kept, said["removed"])
    assert requests(origin) == before
    listed = json.loads(imagen("versions", "shapes", "--lake", lake.url, "--json").stdout)
    assert [one["version"] for one in listed] == [3, 2, 1]
    assert listed[0]["recipe_hash"] == listed[2]["recipe_hash"] != listed[1]["recipe_hash"]
    assert lake.table("datasets/shapes", 1).count_rows() == kept, "time travel"


def test_a_closed_gate_ends_in_one_sentence_and_the_version_stays(
    built: tuple[Lake, Path], imagen: Command, tmp_path: Path, world: Path
) -> None:
    lake, _ = built
    before, report = lake.table("datasets/shapes").version, Path(lake.url, "datasets/shapes/report.html").read_text()
    recipe = write_recipe(tmp_path, world / "pairs.parquet", threshold=0.45)
    recipe.write_text(recipe.read_text() + "gates:\n  rows: {min: 1000}\n")
    done = imagen("build", str(recipe), "--lake", lake.url, "--json")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.match(
        r"Error: shapes was not published: \d+ rows are below gates\.rows\.min 1,000; shapes@\d+ stays", line
    )
    assert lake.table("datasets/shapes").version == before
    assert Path(lake.url, "datasets/shapes/report.html").read_text() == report


def test_the_run_is_tracked_with_readable_names_and_a_funnel(built: tuple[Lake, Path], prefect_server: str) -> None:
    runs = ask(f"{prefect_server}/flow_runs/filter", {})
    assert any(run["name"].startswith("rebuild-") and run["state_type"] == "COMPLETED" for run in runs)
    tasks = {run["name"] for run in ask(f"{prefect_server}/task_runs/filter", {})}
    assert {"download-00000", "look-00000", "score-clip-00000", "embed-t5-00000", "publish-00000"} <= tasks
    artifacts = ask(f"{prefect_server}/artifacts/filter", {"artifacts": {"key": {"any_": ["funnel-shapes"]}}})
    steps = json.loads(artifacts[0]["data"])
    assert steps[0]["step"] == "pairs"
    assert steps[-1]["step"] == "clip_score"


@pytest.mark.parametrize("turn", range(KILLS // KILLS_A_LAKE))
def test_a_build_killed_at_random_moments_publishes_what_an_undisturbed_one_does(
    built: tuple[Lake, Path], origin: OriginProcess, prefect_server: str, world: Path, tmp_path: Path, turn: int
) -> None:
    undisturbed, _ = built
    recipe = write_recipe(tmp_path, world / "pairs.parquet", shard_rows=10)  # many commits to fall between
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    command = [IMAGEN, "build", str(recipe), "--lake", lake.url, "--json"]
    chance = random.Random(turn)
    for _ in range(KILLS_A_LAKE):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(4, 22))
        process.kill()
        process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert content_of(lake, "shapes") == content_of(undisturbed, "shapes", version=1)


def requests(origin: OriginProcess) -> int:
    with urllib.request.urlopen(f"{origin.url}/.stats", timeout=5) as answer:
        return int(json.load(answer)["pictures"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "nowhere"), "recipe nowhere does not exist"),
        (("build", "unknown.yaml"), "unknown.yaml, line 4: colour: there is no such field"),
        (("build", "wrong.yaml"), "wrong.yaml, line 5: download.timeout: Input should be a valid number"),
        (("build", "shapes", "--source", "empty.csv"), "empty.csv holds no rows"),
        (("build", "shapes", "--source", "other.parquet"), "other.parquet has no column 'url'"),
        (("build", "shapes", "--source", "nothing.parquet"), "source nothing.parquet does not exist"),
        (("build", "shapes", "--source", "s3://nowhere/pairs.parquet"), "can't be reached"),
        (("build", "shapes", "--source", "pairs.csv", "--lake", "/proc/lake"), "can't be written"),
        (("versions", "shapes", "--lake", "nothing"), "holds no lake"),
        (("versions", "shapes", "--lake", "."), "is not a lake"),
        (("lake", "make", "lake", "--buckets", "3"), "not a power of two"),
        (("world", "serve", "nothing"), "imagen world make"),
        (("recipe", "mine"), "Shipped recipes: clip-l14-top30, "),
    ],
)
def test_bad_input_ends_in_one_sentence_and_writes_nothing(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    recipe = "name: shapes\nsources:\n  - path: pairs.csv\n"
    (tmp_path / "unknown.yaml").write_text(recipe + "colour: red\n")
    (tmp_path / "wrong.yaml").write_text(recipe + "download:\n  timeout: soon\n")
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a.test/b,a cat\n")
    (tmp_path / "empty.csv").write_text("url,caption\n")
    pq.write_table(pa.table({"link": ["http://a.test/b"], "text": ["a cat"]}), tmp_path / "other.parquet")
    before = sorted(tmp_path.iterdir())
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}
    environment |= {"AWS_SECRET_ACCESS_KEY": "x", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run([IMAGEN, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 or words[:2] == ("lake", "make"), "a framed hint for a wrong option"
    assert sorted(tmp_path.iterdir()) == before


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([IMAGEN, "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - began)
    assert sorted(times)[2] < 1.0  # 0.2 s on an idle machine; tests share theirs
