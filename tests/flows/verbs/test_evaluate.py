"""`imagen evaluate`, as a person types it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lakes.drawn import with_images
from tests.lakes.trained import trained_lake

IMAGEN = str(Path(sys.executable).with_name("imagen"))
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def imagen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("evaluate")
    lake = trained_lake(folder)
    with_images(lake)
    (folder / "few.csv").write_text("prompt,category\na red star,star\na blue ring,ring\nan orange box,box\n")
    checks = '"[{""question"": ""Is there a star?""}]"'
    (folder / "asked.csv").write_text(f"prompt,checks\na red star,{checks}\na blue ring,\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "IMAGEN_LAKE": lake.url}
        command = [IMAGEN, "evaluate", *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_a_suite_is_asked_and_its_figures_are_shown(imagen: Run) -> None:
    done = imagen("little/1", "--suite", "few.csv", "-n", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert (said["model"], said["dataset"]) == ("little/1", "drawn@1")
    assert {(row["metric"], row["slice"], row["n"]) for row in said["evals"]} == {
        (metric, part, n)
        for metric in ("right", "right_sizes")
        for part, n in (("all", 6), ("star", 2), ("ring", 2), ("box", 2))
    }
    again = imagen("little/1", "--suite", "few.csv", "-n", "2")
    assert again.returncode == 0, again.stderr
    assert "make: nothing pending" in again.stderr
    assert "right_sizes" in again.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["little/7"], "has no model little/7; there are: little/1"),
        (["little/1", "--suite", "nowhere.csv"], "suite nowhere.csv is neither 'shapes' nor a file or folder"),
        (["little/1", "--config", "nowhere.yaml"], "evaluation nowhere.yaml can't be read"),
        (["little/1", "--config", "wrong.yaml"], "wrong.yaml, line 2: distances.0: Input should be 'fd', 'kid', "),
        (["little/1", "--dataset", "drawn@9"], "drawn@9 does not exist in"),
        (
            ["little/1", "--suite", "few.csv", "--config", "wide.yaml"],
            "a Fréchet distance of 128 features needs more than 128 real pictures, there are 24: evaluate against",
        ),
        (["little/1", "--config", "metric.yaml"], "metric.yaml, line 1: bleu: there is no such field"),
        (
            ["little/1", "--suite", "few.csv", "--config", "asks.yaml"],
            "suite few has no checks, so that nothing can be",
        ),
        (
            ["little/1", "--suite", "asked.csv", "--config", "asks.yaml"],
            "nowhere is no folder here and can't be fetched from the hub",
        ),
        (["little/1", "--config", "missing.yaml"], "no file nowhere.pth with the weights of FID's Inception. They are"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_sentence(words: list[str], sentence: str, imagen: Run, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("suite: shapes\ndistances: [fid]\n")
    (tmp_path / "missing.yaml").write_text("inception: {weights: nowhere.pth}\n")
    (tmp_path / "wide.yaml").write_text("clip: {clip: {model: built-in}}\ndistances: [fd]\n")
    (tmp_path / "metric.yaml").write_text("bleu: {}\n")
    (tmp_path / "asks.yaml").write_text("vqa: {model: nowhere}\n")
    there = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words]
    done = imagen(*there)
    assert done.returncode == 2, done.stdout
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
