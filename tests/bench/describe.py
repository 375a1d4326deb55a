"""The tiny captioner on scenes that no model has seen: how many of its captions the pixels bear out."""

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


def drawn(shapes: int, square: bool) -> list[Image.Image]:
    rng, found = np.random.default_rng([SEED, shapes]), list[Image.Image]()
    while len(found) < EACH:
        width = int(rng.integers(250, 500))
        scene = random_scene(rng, width, width if square else int(width * rng.uniform(0.62, 1.6)))
        if len(scene.shapes) == shapes:
            found.append(Image.fromarray(draw(scene, rng)))
    return found


def share(pictures: list[Image.Image], seen: list[Image.Image]) -> float:
    said = describe(seen)
    return float(np.mean([caption_is_true(one, text).true for one, text in zip(pictures, said, strict=True)]))


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    for shapes, bound in ((1, 0.95), (2, 0.8), (3, 0.5)):
        pictures = drawn(shapes, square=False)
        began = time.process_time()
        found = share(pictures, pictures)
        note = f"{EACH} scenes, {1000 * (time.process_time() - began) / EACH:.0f} ms of CPU a picture"
        yield f"true captions, {shapes} shape{'s' * (shapes > 1)}", found, bound, True, note
    for side, bound in ((64, 0.95), (32, 0.95)):
        pictures = drawn(1, square=True)
        seen = [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in pictures]
        yield f"true captions, 1 shape at {side} px", share(pictures, seen), bound, True, f"{EACH} scenes"
