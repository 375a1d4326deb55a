"""`imagen build` and the verbs of lakes and worlds: what they say of mistakes, and that help is quick."""

import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command import IMAGEN, Finished, finish, run_imagen, start_imagen

pytestmark = pytest.mark.slow

RECIPE = "name: shapes\nsources:\n  - path: pairs.csv\n"
FILES = {
    "unknown.yaml": RECIPE + "colour: red\n",
    "wrong.yaml": RECIPE + "download:\n  timeout: soon\n",
    "pairs.csv": "url,caption\nhttp://a.test/b,a cat\n",
    "empty.csv": "url,caption\n",
}
UNREACHABLE = {  # a store
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_MAX_ATTEMPTS": "1",
}


@pytest.fixture
def faulty_folder(tmp_path: Path) -> Path:
    """Recipes and sources, most of them with a mistake."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    pq.write_table(pa.table({"link": ["http://a.test/b"], "text": ["a cat"]}), tmp_path / "other.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["build", "nowhere"], "recipe nowhere does not exist"),
        (["build", "unknown.yaml"], "unknown.yaml, line 4: colour: there is no such field"),
        (["build", "wrong.yaml"], "wrong.yaml, line 5: download.timeout: Input should be a valid number"),
        (["build", "shapes", "--source", "empty.csv"], "empty.csv holds no rows"),
        (["build", "shapes", "--source", "other.parquet"], "other.parquet has no column 'url'"),
        (["build", "shapes", "--source", "nothing.parquet"], "source nothing.parquet does not exist"),
        (["build", "shapes", "--source", "pairs.csv", "--lake", "/proc/lake"], "can't be written"),
        (["versions", "shapes", "--lake", "nothing"], "holds no lake"),
        (["versions", "shapes", "--lake", "."], "is not a lake"),
        (["world", "serve", "nothing"], "imagen world make"),
        (["recipe", "mine"], "Shipped recipes: clip-l14-top30, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_explained_in_one_line_and_nothing_is_written(
    words: list[str], sentence: str, faulty_folder: Path
) -> None:
    before = sorted(faulty_folder.iterdir())
    finished = run_imagen(*words, folder=faulty_folder)
    assert finished.returncode == 2, finished.stderr
    assert sentence in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert sorted(faulty_folder.iterdir()) == before


def test_a_wrong_option_is_explained(faulty_folder: Path) -> None:
    before = sorted(faulty_folder.iterdir())
    finished = run_imagen("lake", "make", "lake", "--buckets", "3", folder=faulty_folder)
    assert finished.returncode == 2
    assert "not a power of two" in finished.sentence
    assert sorted(faulty_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["build", "nowhere"], "recipe nowhere does not exist"),
        (["build", "shapes", "--source", "s3://nowhere/pairs.parquet"], "can't be reached"),
    ],
    ids=["recipe", "store"],
)
def test_a_process_ends_with_the_exit_code_of_a_mistake(words: list[str], sentence: str, faulty_folder: Path) -> None:
    before = sorted(faulty_folder.iterdir())
    finished = finish(start_imagen(*words, folder=faulty_folder, **UNREACHABLE))
    assert finished == Finished(2, "", finished.stderr)
    assert sentence in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert sorted(faulty_folder.iterdir()) == before


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([IMAGEN, "--help"], capture_output=True, check=True)
        seconds.append(time.monotonic() - began)
    assert sorted(seconds)[2] < 1.0  # 0.2 s on an idle machine; tests share theirs
