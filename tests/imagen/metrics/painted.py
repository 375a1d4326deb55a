"""Evaluations whose pictures are painted by hand, so that it is known what their figures must be."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from PIL import Image

from data.lake.schemas import IMAGES
from data.lake.shard_file import write_file
from data.world.draw import draw
from data.world.grammar import claim_of
from data.world.scene import COLOURS, SIZES, Scene, Shape
from imagen.evaluate.evaluation import Evaluation
from imagen.evaluate.generate import image_row

SIDE = 64


def paint(evaluation: Evaluation, right: Collection[int]) -> Evaluation:
    """Store pictures as the model would: right ones for prompts of these numbers, others in another colour."""
    picture_lake = evaluation.picture_lake
    evaluation.generation.add_prompts(picture_lake)
    pairs = picture_lake.table("pairs").dataset().to_table(columns=["id", "url"]).to_pylist()
    rows = []
    for pair in pairs:
        number = int(pair["url"].split("/")[-2])
        prompt = evaluation.generation.suite.prompts[number].text
        rows.append(image_row(pair["id"], painted(prompt, number, number in right)))
    table = picture_lake.table_or_make("images", IMAGES)
    table.append([write_file(table.url, 0, pa.Table.from_pylist(rows, IMAGES))])
    return evaluation


def painted(prompt: str, seed: int, right: bool) -> Image.Image:
    claim = claim_of(prompt)
    assert claim is not None
    assert len(claim.phrases) == 1
    phrase, colours = claim.phrases[0], list(COLOURS)
    colour = phrase.colour if right else colours[(colours.index(phrase.colour) + 3) % len(colours)]
    size = phrase.size or "medium"
    shape = Shape(phrase.kind, colour, size, SIDE / 2, SIDE / 2, SIZES[size] * SIDE)
    return Image.fromarray(draw(Scene(SIDE, SIDE, "plain", (shape,)), np.random.default_rng(seed)))
