"""Scenes: one to three shapes with colour, size and position, and the relations between them.

This module has only the geometry. Pixels are drawn in draw.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

KINDS = ("circle", "square", "triangle", "cross", "star", "ring")
COLOURS = {
    "red": (214, 30, 38),
    "orange": (245, 130, 10),
    "yellow": (240, 215, 20),
    "green": (30, 160, 50),
    "cyan": (20, 200, 215),
    "blue": (35, 65, 215),
    "purple": (140, 35, 175),
    "black": (18, 18, 22),
}
SIZES = {"small": 0.22, "medium": 0.36, "large": 0.56}  # extent as a share of the picture's short side
RELATIONS = ("left of", "above", "inside")
BACKGROUNDS = ("plain", "gradient", "texture", "stripes")
CONTAINERS = ("circle", "square")  # kinds that have room for another shape inside
MARGIN, GAP = 0.03, 0.05  # distances to the edge and between shapes, as shares of the short side
PLACEMENTS = 50  # tries to place the shapes of a scene


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape with its position in pixels."""

    kind: str
    colour: str
    size: str  # a key of SIZES
    x: float  # centre
    y: float
    extent: float  # side of the bounding box


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's size, background and shapes."""

    width: int
    height: int
    background: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """What a caption says about one shape. The size is None if the caption does not mention it."""

    kind: str
    colour: str
    size: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a caption says: its shapes, and the relation between the first two if the caption mentions one."""

    phrases: tuple[Phrase, ...]
    relation: str | None = None


def relation_holds(relation: str, a: Shape, b: Shape) -> bool:
    """Return whether a relation between two shapes is true: a is left of, above or inside b."""
    dx, dy = b.x - a.x, b.y - a.y
    if relation == "inside":
        return a.extent < b.extent and max(abs(dx), abs(dy)) + a.extent / 2 <= b.extent / 2
    are_apart = max(abs(dx), abs(dy)) >= 0.35 * (a.extent + b.extent)
    return are_apart and (dx > abs(dy) if relation == "left of" else dy > abs(dx))


def matches(phrase: Phrase, shape: Shape) -> bool:
    """Return whether a phrase describes a shape."""
    same = (phrase.kind, phrase.colour) == (shape.kind, shape.colour)
    return same and phrase.size in (None, shape.size)


def is_true(claim: Claim, shapes: Sequence[Shape]) -> bool:
    """Return whether distinct shapes exist that match the claim's phrases and are in the claimed relation."""
    for chosen in permutations(shapes, len(claim.phrases)):
        if not all(map(matches, claim.phrases, chosen)):
            continue
        if claim.relation is None or relation_holds(claim.relation, chosen[0], chosen[1]):
            return True
    return False


def random_scene(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Make a random scene that a caption can describe exactly.

    Shapes don't touch and have different colours, and the first two are clearly in one of the relations.
    """
    while True:
        count = int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
        relation = str(rng.choice(RELATIONS))
        shapes = _place(rng, width, height, _choose_attributes(rng, count, relation), relation)
        if shapes is not None:
            return Scene(width, height, str(rng.choice(BACKGROUNDS)), shapes)


def _choose_attributes(rng: np.random.Generator, count: int, relation: str) -> list[tuple[str, str, str]]:
    """Choose the kind, colour and size of each shape."""
    kinds = [str(rng.choice(KINDS)) for _ in range(count)]
    colours = [str(colour) for colour in rng.choice(list(COLOURS), count, replace=False)]
    sizes = [str(rng.choice(list(SIZES))) for _ in range(count)]
    if relation == "inside" and count > 1:
        kinds[:2] = [str(rng.choice([k for k in KINDS if k != "ring"])), str(rng.choice(CONTAINERS))]
        sizes[:2] = ["small", "large"]
    return list(zip(kinds, colours, sizes, strict=True))


def _place(
    rng: np.random.Generator, width: int, height: int, attributes: list[tuple[str, str, str]], relation: str
) -> tuple[Shape, ...] | None:
    """Place the shapes at random. Returns None if there is not enough room."""
    short = min(width, height)
    for _ in range(PLACEMENTS):
        shapes: list[Shape] = []
        for kind, colour, size in attributes:
            extent = short * SIZES[size] * rng.uniform(0.94, 1.06)
            reach = extent / 2 + MARGIN * short
            if 2 * reach > short:
                return None
            shapes.append(
                Shape(kind, colour, size, rng.uniform(reach, width - reach), rng.uniform(reach, height - reach), extent)
            )
        if len(shapes) > 1 and relation == "inside":
            inner, outer = shapes[0], shapes[1]
            shift = outer.extent * 0.06
            x, y = outer.x + rng.uniform(-shift, shift), outer.y + rng.uniform(-shift, shift)
            shapes[0] = Shape(inner.kind, inner.colour, inner.size, x, y, inner.extent)
        if _is_unambiguous(shapes, relation, GAP * short):
            return tuple(shapes)
    return None


def _is_unambiguous(shapes: list[Shape], relation: str, gap: float) -> bool:
    """Return whether the shapes are separated by a gap and the first two are clearly in the relation.

    A shape that is inside another one needs no gap to it.
    """
    for i, a in enumerate(shapes):
        for j, b in enumerate(shapes[i + 1 :], i + 1):
            if relation == "inside" and (i, j) == (0, 1):
                continue
            if max(abs(a.x - b.x), abs(a.y - b.y)) < (a.extent + b.extent) / 2 + gap:
                return False
    if len(shapes) == 1 or relation == "inside":
        return True
    dx, dy = shapes[1].x - shapes[0].x, shapes[1].y - shapes[0].y
    along, across = (dx, dy) if relation == "left of" else (dy, dx)
    return along > 1.5 * abs(across)
