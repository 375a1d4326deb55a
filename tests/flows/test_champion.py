"""`imagen compare`, `sweep`, `leaderboard`, `models`, `promote`, `rollback` and `report`, as a person types them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.lake import Lake
from imagen.models import models
from tests.imagen.evaluate.conftest import another, with_images
from tests.imagen.little import trained_lake

IMAGEN = str(Path(sys.executable).with_name("imagen"))
Run = Callable[..., subprocess.CompletedProcess[str]]
GATE = """name: little
preset: tiny
gate:
  evaluate: {suite: few.csv, clip: {clip: {model: built-in}}, distances: [kid]}
  rules:
    - {metric: clip_score, gain: 0, floor: -1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("champion")
    lake = with_images(trained_lake(folder))
    another(lake, 2)
    (folder / "few.csv").write_text("prompt,category\na red star,star\na blue ring,ring\nan orange box,box\n")
    (folder / "gate.yaml").write_text(GATE)
    return folder


@pytest.fixture(scope="module")
def imagen(folder: Path) -> Run:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "IMAGEN_LAKE": str(folder / "lake")}
        return subprocess.run(
            [IMAGEN, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )

    return run


def test_from_two_candidates_to_a_champion_and_back(imagen: Run, folder: Path) -> None:
    listed = imagen("models")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("candidate") == 2
    compared = imagen("compare", "little/1", "little/2", "--suite", "few.csv", "--json", "--pairs", "2")
    assert compared.returncode == 0, compared.stderr
    said = json.loads(compared.stdout)
    assert {one["metric"] for one in said["differences"]} == {"right", "right_sizes"}
    assert Image.open(folder / said["out"]).width > 500
    first = imagen("promote", "little/1", "--config", "gate.yaml", "--why", "the first")
    assert first.returncode == 0, first.stderr
    assert "promoted: little/champion is little/1. Undo: imagen rollback little" in " ".join(first.stdout.split())
    second = imagen("promote", "little/2", "--config", "gate.yaml", "--json")
    answer = json.loads(second.stdout)
    assert second.returncode == {"promote": 0, "reject": 1, "ask": 3}[answer["answer"]]
    if answer["answer"] != "promote":
        decided = imagen(
            "promote", "little/2", "--config", "gate.yaml", "--anyway", "--why", "I like it", "--who", "ann"
        )
        assert decided.returncode == 0, decided.stderr
    listed = json.loads(imagen("models", "--json").stdout)
    assert {f"{one['name']}/{one['number']}": one["state"] for one in listed} == {
        "little/2": "champion",
        "little/1": "retired",
    }
    made = imagen("generate", "a red star", "--model", "little/champion", "--steps", "2", "--json")
    assert made.returncode == 0, made.stderr
    page = imagen("report", "little/champion", "--out", "page.html")
    assert page.returncode == 0, page.stderr
    assert page.stdout.strip() == "page.html: little/2 beside little/1"
    back = imagen("rollback", "little", "--why", "washed-out colours")
    assert back.stdout.strip() == "little/1 is champion of little again"
    board = imagen("leaderboard", "--json")
    assert {line["model"] for line in json.loads(board.stdout)[0]["lines"]} == {"little/1", "little/2"}
    assert len(models(Lake.open(str(folder / "lake")))) == 2


def test_a_sweep_is_drawn(imagen: Run, folder: Path) -> None:
    (folder / "eval.yaml").write_text("suite: few.csv\nclip: {clip: {model: built-in}}\ndistances: [kid]\n")
    words = ("sweep", "little/1", "--guidance", "1,4", "--steps", "2", "--config", "eval.yaml")
    done = imagen(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("chosen") == 1
    assert (folder / "sweep.svg").read_text().startswith("<svg")
    assert len(json.loads(imagen(*words, "--json").stdout)["points"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "little/1", "little/9"], "has no model little/9; there are: little/2, little/1"),
        (["promote", "little/9"], "has no model little/9; there are: little/2, little/1"),
        (["promote", "./folder"], "has no model ./folder"),
        (["promote", "little/2", "--anyway"], "gives a reason: --why"),
        (
            ["promote", "little/2", "--config", "wrong.yaml"],
            "wrong.yaml, line 5: gate.rules.0.metric: Field required",
        ),
        (["promote", "little/2", "--config", "unmeasured.yaml"], "a rule for fid, which is not measured; measured are"),
        (["rollback", "other"], "other has no champion in"),
        (["generate", "a", "--model", "other/champion"], "other has no champion in"),
        (["sweep", "little/1", "--guidance", "1,x"], "'1,x' is no list of numbers"),
        (["sweep", "little/1", "--guidance", "0.5"], "'0.5' has a number below 1"),
        (["sweep", "little/1"], "a sweep needs a distance: score with a CLIP model"),
        (["leaderboard", "--metric", "fid"], "fid is not measured on few"),
        (["report", "other/1"], "has no model other/1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_sentence(words: list[str], sentence: str, imagen: Run, folder: Path) -> None:
    (folder / "wrong.yaml").write_text("name: little\npreset: tiny\ngate:\n  rules:\n    - {metrik: right, gain: 0}\n")
    gate = "gate:\n  evaluate: {suite: few.csv}\n  rules: [{metric: fid, gain: 0}]\n"
    (folder / "unmeasured.yaml").write_text(f"name: little\npreset: tiny\n{gate}")
    if words[0] == "leaderboard":
        imagen("evaluate", "little/1", "--suite", "few.csv")
    done = imagen(*words)
    assert done.returncode == 2, done.stdout
    assert sentence in " ".join(re_joined(done.stderr))
    assert "Traceback" not in done.stderr


def re_joined(text: str) -> list[str]:
    """Without the box in which typer puts what it says."""
    return [word for word in text.split() if word != "│"]
