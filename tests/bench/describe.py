"""The tiny captioner on scenes that no model has seen: how many of its captions are true of the pixels."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.world.check import caption_is_true
from data.world.draw import draw
from data.world.scene import random_scene
from imagen.models.captions import describe

EACH = 300
SEED = 991


def draw_pictures(shapes: int, square: bool) -> list[Image.Image]:
    rng, pictures = np.random.default_rng([SEED, shapes]), list[Image.Image]()
    while len(pictures) < EACH:
        width = int(rng.integers(250, 500))
        scene = random_scene(rng, width, width if square else int(width * rng.uniform(0.62, 1.6)))
        if len(scene.shapes) == shapes:
            pictures.append(Image.fromarray(draw(scene, rng)))
    return pictures


def true_share(pictures: list[Image.Image], described: list[Image.Image]) -> float:
    captions = describe(described)
    return float(
        np.mean([caption_is_true(picture, text).true for picture, text in zip(pictures, captions, strict=True)])
    )


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    for shapes, bound in ((1, 0.95), (2, 0.8), (3, 0.5)):
        pictures = draw_pictures(shapes, square=False)
        began = time.process_time()
        truth = true_share(pictures, pictures)
        note = f"{EACH} scenes, {1000 * (time.process_time() - began) / EACH:.0f} ms of CPU a picture"
        yield f"true captions, {shapes} shape{'s' * (shapes > 1)}", truth, bound, True, note
    for side, bound in ((64, 0.95), (32, 0.95)):
        pictures = draw_pictures(1, square=True)
        described = [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in pictures]
        yield f"true captions, 1 shape at {side} px", true_share(pictures, described), bound, True, f"{EACH} scenes"
