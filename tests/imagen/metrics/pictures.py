"""Pictures of the built-in world and their captions, as an excellent model would make them."""

import numpy as np
from PIL import Image

from data.world.draw import draw
from data.world.grammar import caption_of
from data.world.scene import random_scene


def draw_pictures(count: int, side: int, seed: int) -> tuple[list[Image.Image], list[str]]:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, side, side) for _ in range(count)]
    return [Image.fromarray(draw(scene, rng)) for scene in scenes], [caption_of(scene, rng) for scene in scenes]
