"""The other direction: from a picture to a sentence and back, in Python."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import imagen
from data.errors import ModelError
from data.world.check import caption_is_true
from data.world.draw import draw
from data.world.scene import Scene, Shape
from imagen.models.model import Imagen

RED = Scene(200, 200, "plain", (Shape("circle", "red", "large", 100, 100, 112),))
BLUE = Scene(240, 200, "stripes", (Shape("star", "blue", "medium", 80, 90, 72),))


def picture_of(scene: Scene) -> Image.Image:
    return Image.fromarray(draw(scene, np.random.default_rng(1)))


def test_a_picture_is_described_and_made_again_from_its_caption(model: Imagen) -> None:
    picture = picture_of(RED)
    caption = imagen.describe(picture)
    assert caption == "a large red circle"
    assert caption_is_true(picture, caption).true
    image = model.generate_image(caption, seed=3)
    assert image.size == (32, 32)
    assert imagen.describe(image), "a caption also comes back for a picture of few recognizable shapes"


def test_several_pictures_of_any_mode_are_described_in_their_order() -> None:
    pictures = [picture_of(BLUE), picture_of(RED).convert("RGBA"), picture_of(BLUE).convert("P")] * 7
    captions = imagen.describe(pictures)
    assert captions == ["a medium blue star", "a large red circle", "a medium blue star"] * 7
    assert imagen.describe([]) == []


def test_a_model_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelError, match="there is no folder no/such/folder"):
        imagen.describe(picture_of(RED), model="no/such/folder")


def test_describe_is_a_function_whatever_was_imported_before() -> None:
    code = "import imagen, imagen.models.captions, sys; from imagen import describe; assert callable(imagen.describe)"
    light = "import imagen, sys; assert 'torch' not in sys.modules"
    for program in (code, light):
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0
