"""`imagen train`, as a person types it: trained once, stopped and continued, and what it says of mistakes."""

import json
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from data.lake.lake import Lake
from imagen.errors import RESUMABLE
from imagen.models.table import TrainedModel, models
from imagen.train.measures import read_measures
from tests.command import Finished, finish, run_imagen, start_imagen
from tests.lakes.drawn import make_drawn_lake

pytestmark = pytest.mark.slow

CONFIG = """
name: little
preset: tiny
size: 8
resolutions: [8, 16]
fit: pad
train: {steps: 6, batch: 4, warmup: 1, checkpoint_every: 2, grid_every: 6}
sample: [{steps: 4}, {steps: 3}]
"""


@pytest.fixture(scope="module")
def configs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations beside a lake with drawn@1."""
    folder = tmp_path_factory.mktemp("train")
    make_drawn_lake(folder, 20)
    (folder / "little.yaml").write_text(CONFIG)
    (folder / "clip.yaml").write_text("name: other\npreset: tiny\ntext: clip\n")
    return folder


@pytest.fixture(scope="module")
def trained(configs_folder: Path) -> Finished:
    """The command line by which little/1 was trained."""
    return run_imagen("train", "little.yaml", "--dataset", "drawn@1", "--json", folder=configs_folder)


@pytest.fixture
def little_model(trained: Finished, configs_folder: Path) -> TrainedModel:
    (model,) = (model for model in models(Lake.open(str(configs_folder / "lake"))) if model.name == "little")
    return model


def measured_steps(training: Path) -> list[int]:
    return [row["step"] for row in read_measures(str(training / "stage-1/measures"))]


@pytest.fixture
def training(trained: Finished, configs_folder: Path) -> Path:
    """The folder with what the training of little/1 left."""
    (training,) = configs_folder.glob("lake/training/little-*")
    return training


def test_what_was_trained_is_printed(trained: Finished) -> None:
    assert trained.returncode == 0, trained.stderr
    answer = json.loads(trained.stdout)
    assert (answer["model"], answer["dataset"], list(answer["stages"])) == ("little/1", "drawn@1", ["0", "1"])
    assert answer["stages"]["0"]["steps"] == 6


def test_the_table_says_what_a_model_was_made_from(little_model: TrainedModel) -> None:
    assert (little_model.reference, little_model.dataset, little_model.version) == ("little/1", "drawn", 1)
    assert little_model.config["preset"] == "tiny"
    assert little_model.stages["stage-2"]["steps"] == 6


def test_every_step_is_measured(training: Path) -> None:
    measures = read_measures(str(training / "stage-1/measures"))
    assert measured_steps(training) == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] > 0 and row["samples_per_second"] > 0 for row in measures)


def test_a_grid_of_samples_is_drawn(training: Path) -> None:
    (grid,) = training.glob("stage-2/grids/*.png")
    width, height = Image.open(grid).size
    assert width > height > 200


def test_a_second_training_of_the_same_has_nothing_to_do(little_model: TrainedModel, configs_folder: Path) -> None:
    again = run_imagen("train", "little.yaml", "--dataset", "drawn", folder=configs_folder)
    assert again.returncode == 0
    assert "Nothing to do: little/1" in again.stdout


@pytest.fixture(scope="module")
def stopped_command(configs_folder: Path) -> Finished:
    """A training of 60 steps a stage that was sent SIGTERM after its first checkpoint."""
    (configs_folder / "long.yaml").write_text(CONFIG.replace("little", "long").replace("steps: 6", "steps: 60"))
    process = start_imagen("train", "long.yaml", "--dataset", "drawn", folder=configs_folder)
    end = time.monotonic() + 120
    while (
        not list(configs_folder.glob("lake/training/long-*/stage-1/checkpoints/*/state.json"))
        and time.monotonic() < end
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    return finish(process)


def test_a_training_that_is_stopped_says_that_it_can_be_continued(stopped_command: Finished) -> None:
    assert stopped_command.returncode == RESUMABLE
    assert "a checkpoint is written: run the same command again to continue" in stopped_command.stderr


def test_a_stopped_training_continues_where_it_was(stopped_command: Finished, configs_folder: Path) -> None:
    finished = run_imagen("train", "long.yaml", "--dataset", "drawn", "--json", folder=configs_folder)
    assert json.loads(finished.stdout)["stages"]["1"]["steps"] == 60
    (training,) = configs_folder.glob("lake/training/long-*")
    assert measured_steps(training) == list(range(1, 61))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tiny", "--dataset", "nothing"], "has no dataset nothing"),
        (["tiny", "--dataset", "drawn@7"], "drawn@7 does not exist"),
        (["clip.yaml", "--dataset", "drawn"], "it has t5: build it with embed.clip in its recipe"),
        (["tiny", "--dataset", "drawn", "--stage", "3"], "there is no stage 3"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_explained_in_one_line(words: list[str], sentence: str, configs_folder: Path) -> None:
    finished = run_imagen("train", *words, folder=configs_folder)
    assert finished.returncode == 2
    assert sentence in finished.sentence
