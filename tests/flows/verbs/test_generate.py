"""`imagen generate`, `edit`, `inspect` and `describe`, as a person types them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.lake.lake import Lake
from data.world.draw import draw
from data.world.scene import Scene, Shape
from tests.command import Command, Finished, run_imagen

pytestmark = pytest.mark.slow


@pytest.fixture
def imagen(one_model_lake: Lake, tmp_path: Path) -> Command:
    """The command from an empty folder, with the model little/1 as the newest."""

    def run(*words: str) -> Finished:
        return run_imagen(*words, folder=tmp_path, IMAGEN_LAKE=one_model_lake.url)

    return run


@pytest.fixture
def generated_picture(imagen: Command, tmp_path: Path) -> Path:
    """One made picture."""
    words = ("--seed", "4", "--steps", "3", "--guidance", "2", "--out", "one.png")
    assert imagen("generate", "a red circle", *words).returncode == 0
    return tmp_path / "one.png"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_several_pictures_of_a_prompt_come_on_one_sheet_that_says_how_each_was_made(imagen: Command) -> None:
    words = ("a red circle", "a blue star", "-n", "2", "--seed", "3", "--out", "sheet.png")
    assert imagen("generate", *words).stdout == "sheet.png: 4 pictures by little/1\n"
    rows = json.loads(imagen("inspect", "sheet.png", "--json").stdout)
    assert [(row["prompt"], row["seed"]) for row in rows] == [
        ("a red circle", 3),
        ("a red circle", 4),
        ("a blue star", 3),
        ("a blue star", 4),
    ]
    assert {row["model"] for row in rows} == {"little/1"}
    assert "a red circle" in imagen("inspect", "sheet.png").stdout


def test_a_picture_has_the_models_size_and_the_options_of_its_sampling(
    generated_picture: Path, imagen: Command
) -> None:
    assert Image.open(generated_picture).size == (32, 32)
    (row,) = json.loads(imagen("inspect", generated_picture.name, "--json").stdout)
    assert row["guidance"] == 2


def test_what_a_mask_leaves_out_stays_as_it_was(generated_picture: Path, imagen: Command, tmp_path: Path) -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    finished = imagen("edit", generated_picture.name, "a blue star", "--mask", "mask.png", "--out", "painted.png")
    assert finished.returncode == 0, finished.stderr
    before, after = pixels(generated_picture), pixels(tmp_path / "painted.png")
    assert (before[:, 16:] == after[:, 16:]).all()
    assert (before[:, :16] != after[:, :16]).any()


def test_a_picture_is_restyled_several_times(generated_picture: Path, imagen: Command) -> None:
    finished = imagen("edit", generated_picture.name, "-n", "3", "--strength", "0.5", "--out", "restyled.png", "--json")
    assert [row["how"] for row in json.loads(finished.stdout)["pictures"]] == ["restyle"] * 3


def test_pictures_are_described(imagen: Command, tmp_path: Path) -> None:
    names = [f"{colour}.png" for colour in ("red", "blue")]
    for name in names:
        shape = Shape("circle", name.removesuffix(".png"), "large", 60, 60, 67)
        scene = Scene(120, 120, "plain", (shape,))
        Image.fromarray(draw(scene, np.random.default_rng(0))).save(tmp_path / name)
    assert imagen("describe", "red.png").stdout == "a large red circle\n"
    described = json.loads(imagen("describe", *names, "--json").stdout)
    assert described == [
        {"file": "red.png", "caption": "a large red circle"},
        {"file": "blue.png", "caption": "a large blue circle"},
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generate", " "], "the prompt is empty"),
        (["generate", "a star", "--guidance", "0.5"], "guidance"),
        (["generate", "a star", "--model", "little/7"], "has no model little/7; there are: little/1"),
        (["generate", "a star", "--model", "nowhere"], "nowhere is neither a cascade's folder"),
        (["generate", "a star", "--stages", "3"], "the model has 2 stages"),
        (["edit", "nothing.png", "a star"], "nothing.png is no image that can be read"),
        (["inspect", "plain.png"], "does not say how it was made"),
        (["edit", "plain.png", "a star"], "it has to be square"),
        (["describe", "nothing.png"], "nothing.png is no image that can be read"),
        (
            ["describe", "plain.png", "--model", "no/such/one"],
            "there is no folder no/such/one. A captioner's folder holds",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_explained_in_one_line(words: list[str], sentence: str, imagen: Command, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "plain.png")
    finished = imagen(*words)
    assert finished.returncode == 2
    assert sentence in finished.sentence
