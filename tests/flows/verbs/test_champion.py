"""`imagen compare`, `sweep`, `leaderboard`, `models`, `promote`, `rollback` and `report`, as a person types them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from data.errors import ImagenError
from data.lake.lake import Lake
from flows.command import app
from imagen.models.table import models
from tests.lakes.drawn import with_images
from tests.lakes.trained import another, trained_lake

Run = Callable[..., Result]
ONE = ("--workers", "1")
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
    (folder / "few.yaml").write_text("suite: few.csv\n")
    return folder


@pytest.fixture
def imagen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """In this process: what a command costs is its imports."""
    monkeypatch.chdir(folder)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, words, env={"IMAGEN_LAKE": str(folder / "lake"), "COLUMNS": "400"})

    return run


def test_from_two_candidates_to_a_champion_and_back(imagen: Run, folder: Path) -> None:
    listed = imagen("models")
    assert listed.exit_code == 0, listed.stderr
    assert listed.stdout.count("candidate") == 2
    compared = imagen("compare", "little/1", "little/2", "--suite", "few.csv", "--json", "--pairs", "2", *ONE)
    assert compared.exit_code == 0, compared.stderr
    assert compared.stderr == ""
    said = json.loads(compared.stdout)
    assert {one["metric"] for one in said["differences"]} == {"right", "right_sizes"}
    assert Image.open(folder / said["out"]).width > 500
    first = imagen("promote", "little/1", "--config", "gate.yaml", "--why", "the first", *ONE)
    assert first.exit_code == 0, first.stderr
    assert "promoted: little/champion is little/1. Undo: imagen rollback little" in " ".join(first.stdout.split())
    second = imagen("promote", "little/2", "--config", "gate.yaml", "--json", *ONE)
    answer = json.loads(second.stdout)
    assert second.exit_code == {"promote": 0, "reject": 1, "ask": 3}[answer["answer"]]
    if answer["answer"] != "promote":
        decided = imagen(
            "promote", "little/2", "--config", "gate.yaml", "--anyway", "--why", "I like it", "--who", "ann"
        )
        assert decided.exit_code == 0, decided.stderr
    listed = json.loads(imagen("models", "--json").stdout)
    assert {f"{one['name']}/{one['number']}": one["state"] for one in listed} == {
        "little/2": "champion",
        "little/1": "retired",
    }
    made = imagen("generate", "a red star", "--model", "little/champion", "--steps", "2", "--json")
    assert made.exit_code == 0, made.stderr
    page = imagen("report", "little/champion", "--config", "few.yaml", "--out", "page.html", *ONE)
    assert page.exit_code == 0, page.stderr
    assert page.stdout.strip() == "page.html: little/2 beside little/1"
    back = imagen("rollback", "little", "--why", "washed-out colours")
    assert back.stdout.strip() == "little/1 is champion of little again"
    board = imagen("leaderboard", "--json")
    assert {line["model"] for line in json.loads(board.stdout)[0]["lines"]} == {"little/1", "little/2"}
    assert len(models(Lake.open(str(folder / "lake")))) == 2


def test_a_sweep_is_drawn(imagen: Run, folder: Path) -> None:
    (folder / "eval.yaml").write_text("suite: few.csv\nclip: {clip: {model: built-in}}\ndistances: [kid]\n")
    words = ("sweep", "little/1", "--guidance", "1,4", "--steps", "2", "--config", "eval.yaml", *ONE)
    done = imagen(*words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("chosen") == 1
    assert (folder / "sweep.svg").read_text().startswith("<svg")
    assert len(json.loads(imagen(*words, "--json").stdout)["points"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "little/1", "little/9"], "has no model little/9; there are: little/2, little/1"),
        (["promote", "little/9"], "has no model little/9; there are: little/2, little/1"),
        (["promote", "./folder"], "has no model ./folder"),
        (["promote", "little/2", "--anyway"], "needs a reason: --why"),
        (
            ["promote", "little/2", "--config", "wrong.yaml"],
            "wrong.yaml, line 5: gate.rules.0.metric: Field required",
        ),
        (["promote", "little/2", "--config", "unmeasured.yaml"], "a rule for fid, which is not measured; measured are"),
        (["rollback", "other"], "other has no champion in"),
        (["generate", "a", "--model", "other/champion"], "other has no champion in"),
        (["sweep", "little/1", "--guidance", "1,x"], "'1,x' is not a list of numbers"),
        (["sweep", "little/1", "--guidance", "0.5"], "'0.5' has a number below 1"),
        (["sweep", "little/1"], "a sweep needs a distance: score with a CLIP model"),
        (["leaderboard", "--suite", "few", "--metric", "fid"], "fid is not measured on few"),
        (["report", "other/1"], "has no model other/1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_sentence(words: list[str], sentence: str, imagen: Run, folder: Path) -> None:
    (folder / "wrong.yaml").write_text("name: little\npreset: tiny\ngate:\n  rules:\n    - {metrik: right, gain: 0}\n")
    gate = "gate:\n  evaluate: {suite: few.csv}\n  rules: [{metric: fid, gain: 0}]\n"
    (folder / "unmeasured.yaml").write_text(f"name: little\npreset: tiny\n{gate}")
    done = imagen(*words)
    assert done.exit_code != 0
    assert isinstance(done.exception, ImagenError | SystemExit)
    assert sentence in (str(done.exception) if isinstance(done.exception, ImagenError) else done.output)
