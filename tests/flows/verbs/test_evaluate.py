"""`imagen evaluate`, as a person types it."""

import json
from pathlib import Path

import pytest

from data.lake.lake import Lake
from tests.command import Command, Finished, run_imagen
from tests.shared import copy_beside

pytestmark = pytest.mark.slow

SUITE = "prompt,category\na red star,star\na blue ring,ring\nan orange box,box\n"
CHECKS = '"[{""question"": ""Is there a star?""}]"'
FILES = {
    "few.csv": SUITE,
    "asked.csv": f"prompt,checks\na red star,{CHECKS}\na blue ring,\n",
    "wrong.yaml": "suite: shapes\ndistances: [fid]\n",
    "missing.yaml": "inception: {weights: nowhere.pth}\n",
    "wide.yaml": "clip: {clip: {model: built-in}}\ndistances: [fd]\n",
    "metric.yaml": "bleu: {}\n",
    "asks.yaml": "vqa: {model: nowhere}\n",
}


@pytest.fixture(scope="module")
def suites_folder(pictured_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Suites and settings beside a lake with the model little/1."""
    return copy_beside(pictured_lake, tmp_path_factory.mktemp("evaluate"), FILES)


@pytest.fixture(scope="module")
def evaluate(suites_folder: Path) -> Command:
    def run(*words: str) -> Finished:
        return run_imagen("evaluate", *words, "--workers", "1", folder=suites_folder)

    return run


@pytest.fixture(scope="module")
def measured(evaluate: Command) -> Finished:
    return evaluate("little/1", "--suite", "few.csv", "-n", "2", "--json")


def test_every_figure_of_a_suite_is_measured(measured: Finished) -> None:
    assert measured.returncode == 0, measured.stderr
    assert measured.stderr == ""
    answer = json.loads(measured.stdout)
    assert (answer["model"], answer["dataset"]) == ("little/1", "drawn@1")
    assert {(row["metric"], row["slice"], row["n"]) for row in answer["evals"]} == {
        (metric, part, n)
        for metric in ("right", "right_sizes")
        for part, n in (("all", 6), ("star", 2), ("ring", 2), ("box", 2))
    }


def test_a_second_evaluation_makes_no_picture(measured: Finished, evaluate: Command) -> None:
    again = evaluate("little/1", "--suite", "few.csv", "-n", "2")
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
        (["little/1", "--suite", "few.csv", "--config", "asks.yaml"], "suite few has no checks"),
        (
            ["little/1", "--suite", "asked.csv", "--config", "asks.yaml"],
            "nowhere is not a folder here, and can't be downloaded from the hub",
        ),
        (["little/1", "--config", "missing.yaml"], "no file nowhere.pth with the weights of FID's Inception. They are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_explained_in_one_line(words: list[str], sentence: str, evaluate: Command) -> None:
    finished = evaluate(*words)
    assert finished.returncode == 2, finished.stdout
    assert sentence in finished.sentence
    assert finished.stderr.count("Error: ") == 1
