"""The verbs of the model half, as a person types them: train, generate, edit, inspect, and what they say when wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.lake.lake import Lake
from data.world.draw import draw
from data.world.scene import Scene, Shape
from imagen.errors import RESUMABLE
from imagen.models.table import models
from imagen.train.measures import read_measures
from tests.lakes.drawn import drawn_lake

IMAGEN = str(Path(sys.executable).with_name("imagen"))
CONFIG = """
name: little
preset: tiny
size: 8
resolutions: [8, 16]
fit: pad
train: {steps: 6, batch: 4, warmup: 1, checkpoint_every: 2, grid_every: 6}
sample: [{steps: 4}, {steps: 3}]
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return drawn_lake(tmp_path_factory.mktemp("make"), 20)


@pytest.fixture(scope="module")
def imagen(lake: Lake) -> Run:
    def run(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "IMAGEN_LAKE": lake.url}
        return subprocess.run([IMAGEN, *words], env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def trained(lake: Lake, imagen: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration that `little/1` is trained by."""
    config = tmp_path_factory.mktemp("config") / "little.yaml"
    config.write_text(CONFIG)
    done = imagen("train", str(config), "--dataset", "drawn@1", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], said["dataset"], list(said["stages"])) == ("little/1", "drawn@1", ["0", "1"])
    assert said["stages"]["0"]["steps"] == 6
    return config


def test_a_model_is_trained_once_and_says_what_it_is_made_from(trained: Path, lake: Lake, imagen: Run) -> None:
    again = imagen("train", str(trained), "--dataset", "drawn")
    assert again.returncode == 0
    assert "Nothing to do: little/1" in again.stdout
    (model,) = models(lake)
    assert (model.reference, model.dataset, model.version) == ("little/1", "drawn", 1)
    assert model.config["preset"] == "tiny"
    assert model.stages["stage-2"]["steps"] == 6
    folder = Path(lake.url) / "training"
    measures = read_measures(str(next(folder.iterdir()) / "stage-1" / "measures"))
    assert [row["step"] for row in measures] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] > 0 and row["samples_per_second"] > 0 for row in measures)
    grid = Image.open(next(folder.glob("*/stage-2/grids/*.png")))
    assert grid.width > grid.height > 200


def test_pictures_are_made_edited_and_say_how(trained: Path, imagen: Run, tmp_path: Path) -> None:
    sheet, one = tmp_path / "sheet.png", tmp_path / "one.png"
    words = ("generate", "a red circle", "a blue star", "-n", "2", "--seed", "3", "--out", str(sheet))
    assert imagen(*words).stdout == f"{sheet}: 4 pictures by little/1\n"
    made = json.loads(imagen("inspect", str(sheet), "--json").stdout)
    assert [(row["prompt"], row["seed"]) for row in made] == [
        ("a red circle", 3),
        ("a red circle", 4),
        ("a blue star", 3),
        ("a blue star", 4),
    ]
    assert {row["model"] for row in made} == {"little/1"}
    assert "a red circle" in imagen("inspect", str(sheet)).stdout
    imagen("generate", "a red circle", "--seed", "4", "--steps", "3", "--guidance", "2", "--out", str(one))
    assert json.loads(imagen("inspect", str(one), "--json").stdout)[0]["guidance"] == 2
    picture = Image.open(one)
    assert picture.size == (16, 16)
    mask, painted = Image.new("L", picture.size, 0), tmp_path / "painted.png"
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "mask.png")
    done = imagen("edit", str(one), "a blue star", "--mask", str(tmp_path / "mask.png"), "--out", str(painted))
    assert done.returncode == 0, done.stderr
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (one, painted))
    assert (before[:, 8:] == after[:, 8:]).all()
    assert (before[:, :8] != after[:, :8]).any()
    restyled = imagen("edit", str(one), "-n", "3", "--strength", "0.5", "--out", str(painted), "--json")
    assert [row["how"] for row in json.loads(restyled.stdout)["pictures"]] == ["restyle"] * 3


def test_pictures_are_described(imagen: Run, tmp_path: Path) -> None:
    files = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for file in files:
        shape = Shape("circle", file.stem, "large", 60, 60, 67)
        Image.fromarray(draw(Scene(120, 120, "plain", (shape,)), np.random.default_rng(0))).save(file)
    assert imagen("describe", str(files[0])).stdout == "a large red circle\n"
    told = json.loads(imagen("describe", *map(str, files), "--json").stdout)
    assert told == [{"file": str(file), "caption": f"a large {file.stem} circle"} for file in files]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", " "), "the prompt is empty"),
        (("generate", "a star", "--guidance", "0.5"), "guidance"),
        (("generate", "a star", "--model", "little/7"), "has no model little/7; there are: little/1"),
        (("generate", "a star", "--model", "nowhere"), "nowhere is neither a cascade's folder"),
        (("generate", "a star", "--stages", "3"), "the model has 2 stages"),
        (("edit", "nothing.png", "a star"), "nothing.png is no image that can be read"),
        (("inspect", "{plain}"), "does not say how it was made"),
        (("edit", "{plain}", "a star"), "it has to be square"),
        (("describe", "nothing.png"), "nothing.png is no image that can be read"),
        (
            ("describe", "{plain}", "--model", "no/such/one"),
            "there is no folder no/such/one. A captioner's folder holds",
        ),
        (("train", "tiny", "--dataset", "nothing"), "has no dataset nothing"),
        (("train", "tiny", "--dataset", "drawn@7"), "drawn@7 does not exist"),
        (("train", "{config}", "--dataset", "drawn"), "it has t5: build it with embed.clip in its recipe"),
        (("train", "tiny", "--dataset", "drawn", "--stage", "3"), "there is no stage 3"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    words: tuple[str, ...], said: str, trained: Path, imagen: Run, tmp_path: Path
) -> None:
    plain, config = tmp_path / "plain.png", tmp_path / "other.yaml"
    Image.new("RGB", (20, 10)).save(plain)
    config.write_text("name: other\npreset: tiny\ntext: clip\n")
    done = imagen(*(word.format(plain=plain, config=config) for word in words))
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_training_that_is_told_to_stop_says_that_it_can_go_on(lake: Lake, imagen: Run, tmp_path: Path) -> None:
    config = tmp_path / "long.yaml"
    config.write_text(CONFIG.replace("little", "long").replace("steps: 6", "steps: 60"))
    command = [IMAGEN, "train", str(config), "--dataset", "drawn", "--lake", lake.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checkpoints = Path(lake.url) / "training"
    end = time.monotonic() + 120
    while not list(checkpoints.glob("long-*/stage-1/checkpoints/*/state.json")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == RESUMABLE
    assert "a checkpoint is written: run the same command again to continue" in said
    done = imagen("train", str(config), "--dataset", "drawn", "--json")
    assert json.loads(done.stdout)["stages"]["1"]["steps"] == 60
    measures = read_measures(str(next(checkpoints.glob("long-*")) / "stage-1" / "measures"))
    assert [row["step"] for row in measures] == list(range(1, 61))
