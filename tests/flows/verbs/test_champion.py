"""`imagen compare`, `sweep`, `leaderboard`, `models`, `promote`, `rollback` and `report`, as a person types them."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from data.lake.lake import Lake
from imagen.models.table import models
from tests.command import Finished, run_imagen
from tests.shared import copy_beside

pytestmark = pytest.mark.slow

Decided = tuple[Path, Finished, Finished | None]  # the folder, the answer of the gate, and that of a person
ONE = ("--workers", "1")
GATE = """name: little
preset: tiny
gate:
  evaluate: {suite: few.csv, clip: {clip: {model: built-in}}, distances: [kid]}
  rules:
    - {metric: clip_score, gain: 0, floor: -1}
"""
UNMEASURED = """name: little
preset: tiny
gate:
  evaluate: {suite: few.csv}
  rules: [{metric: fid, gain: 0}]
"""
FILES = {
    "few.csv": "prompt,category\na red star,star\na blue ring,ring\nan orange box,box\n",
    "gate.yaml": GATE,
    "few.yaml": "suite: few.csv\n",
    "eval.yaml": "suite: few.csv\nclip: {clip: {model: built-in}}\ndistances: [kid]\n",
    "wrong.yaml": "name: little\npreset: tiny\ngate:\n  rules:\n    - {metrik: right, gain: 0}\n",
    "unmeasured.yaml": UNMEASURED,
}


@pytest.fixture(scope="module")
def candidates(three_models_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Suites and gates beside a lake with little/1, little/2 and little/3, none of them decided on."""
    return copy_beside(three_models_lake, tmp_path_factory.mktemp("candidates"), FILES)


@pytest.fixture(scope="module")
def first(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The same where little/1 was promoted by the gate, and what the command answered."""
    folder = tmp_path_factory.mktemp("first") / "champion"
    shutil.copytree(candidates, folder)
    return folder, run_imagen("promote", "little/1", "--config", "gate.yaml", "--why", "the first", *ONE, folder=folder)


@pytest.fixture(scope="module")
def second(first: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Decided:
    """Where little/2 became the champion after it: what the gate answered, and a person if it had to be one."""
    folder = tmp_path_factory.mktemp("second") / "champion"
    shutil.copytree(first[0], folder)
    words = ("promote", "little/2", "--config", "gate.yaml")
    answer = run_imagen(*words, "--json", *ONE, folder=folder)
    if json.loads(answer.stdout)["answer"] == "promote":
        return folder, answer, None
    return folder, answer, run_imagen(*words, "--anyway", "--why", "I like it", "--who", "ann", folder=folder)


def test_every_model_is_listed_as_a_candidate(candidates: Path) -> None:
    listed = run_imagen("models", folder=candidates)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("candidate") == 3


def test_two_models_are_compared_by_figures_and_side_by_side(candidates: Path) -> None:
    words = ("compare", "little/1", "little/2", "--suite", "few.csv", "--json", "--pairs", "2", *ONE)
    compared = run_imagen(*words, folder=candidates)
    assert compared.returncode == 0, compared.stderr
    assert compared.stderr == ""
    answer = json.loads(compared.stdout)
    assert {difference["metric"] for difference in answer["differences"]} == {"right", "right_sizes"}
    assert Image.open(candidates / answer["out"]).width > 500


def test_the_first_model_is_promoted_and_the_answer_says_how_to_undo_it(first: tuple[Path, Finished]) -> None:
    _, promoted = first
    assert promoted.returncode == 0, promoted.stderr
    answer = " ".join(promoted.stdout.split())
    assert "promoted: little/champion is little/1. Undo: imagen rollback little" in answer


def test_the_exit_code_says_what_the_gate_answered(second: Decided) -> None:
    _, answer, decided = second
    assert answer.returncode == {"promote": 0, "reject": 1, "ask": 3}[json.loads(answer.stdout)["answer"]]
    assert decided is None or decided.returncode == 0


def test_a_new_champion_retires_the_one_before(second: Decided) -> None:
    listed = json.loads(run_imagen("models", "--json", folder=second[0]).stdout)
    assert {f"{model['name']}/{model['number']}": model["state"] for model in listed} == {
        "little/3": "candidate",
        "little/2": "champion",
        "little/1": "retired",
    }


def test_the_champion_makes_pictures(second: Decided) -> None:
    words = ("generate", "a red star", "--model", "little/champion", "--steps", "2", "--json")
    finished = run_imagen(*words, folder=second[0])
    assert finished.returncode == 0, finished.stderr


def test_the_report_of_a_champion_shows_it_beside_the_one_before(
    second: Decided,
) -> None:
    words = ("report", "little/champion", "--config", "few.yaml", "--out", "page.html", *ONE)
    page = run_imagen(*words, folder=second[0])
    assert page.returncode == 0, page.stderr
    assert page.stdout.strip() == "page.html: little/2 beside little/1"


def test_a_rollback_makes_the_one_before_champion_again(second: Decided, tmp_path: Path) -> None:
    shutil.copytree(second[0] / "lake", tmp_path / "lake")
    back = run_imagen("rollback", "little", "--why", "washed-out colours", folder=tmp_path)
    assert back.stdout.strip() == "little/1 is champion of little again"
    assert len(models(Lake.open(str(tmp_path / "lake")))) == 3


def test_the_leaderboard_has_every_measured_model(second: Decided) -> None:
    boards = json.loads(run_imagen("leaderboard", "--json", folder=second[0]).stdout)
    assert {line["model"] for line in boards[0]["lines"]} == {"little/1", "little/2"}


def test_a_sweep_is_drawn(candidates: Path) -> None:
    words = ("sweep", "little/1", "--guidance", "1,4", "--steps", "2", "--config", "eval.yaml", *ONE)
    finished = run_imagen(*words, folder=candidates)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("chosen") == 1
    assert (candidates / "sweep.svg").read_text().startswith("<svg")
    assert len(json.loads(run_imagen(*words, "--json", folder=candidates).stdout)["points"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "little/1", "little/9"], "has no model little/9; there are: little/3, little/2, little/1"),
        (["promote", "little/9"], "has no model little/9; there are: little/3, little/2, little/1"),
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
        (["report", "other/1"], "has no model other/1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_explained_in_one_line(words: list[str], sentence: str, candidates: Path) -> None:
    finished = run_imagen(*words, folder=candidates)
    assert finished.returncode == 2
    assert sentence in finished.sentence
    assert finished.stderr.count("Error") == 1


def test_a_leaderboard_by_a_metric_that_is_not_measured_is_an_error(first: tuple[Path, Finished]) -> None:
    finished = run_imagen("leaderboard", "--suite", "few", "--metric", "fid", folder=first[0])
    assert finished.returncode == 2
    assert "fid is not measured on few" in finished.sentence
