"""Look at the pixels of any picture: which shapes, colours, sizes and relations are there, and is a caption true?

No learned model and no labels: pixels far from the background's paleness are given to the nearest colour, connected
ones make a shape, and its outline is compared with the outlines of all kinds.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from data.world.draw import Pixels, paint
from data.world.grammar import claim_of
from data.world.scene import COLOURS, KINDS, SIZES, Phrase, Shape, fits, is_true

CHROMA = 75  # of 255: more is a shape's colour, less is background
DARK = 75  # brightest channel of a black pixel
LEAST_AREA = 0.006  # of the squared short side: less is a speck
CORE = np.ones((5, 5), np.uint8)  # how far from an edge a shape's own colour is seen
LEAST_CORE = 12  # pixels
TEMPLATE = 32  # pixels of the side in which outlines are compared
SHARP = 48  # a shape of more pixels than this shows its whole outline
SOFTNESS = 0.6  # pixels
WORKING = 128  # short side in which every picture is looked at


@dataclass(frozen=True)
class Verdict:
    true: bool
    reasons: list[str] = field(default_factory=list)


def find_shapes(image: Image.Image) -> list[Shape]:
    """Every shape in a picture, in pixels of the picture."""
    original = image.convert("RGB")
    scale = min(original.size) / WORKING
    size = (max(1, round(original.width / scale)), max(1, round(original.height / scale)))
    picture = np.asarray(original.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
    short = min(size)
    colours, cores = _colour_of_pixels(picture)
    shapes = []
    for index, colour in enumerate(COLOURS, 1):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((colours == index).astype(np.uint8), connectivity=4)
        for part in range(1, count):
            x, y, width, height, area = (int(value) for value in stats[part])
            box = (slice(y, y + height), slice(x, x + width))
            if area < LEAST_AREA * short**2 or min(width, height) < 0.5 * max(width, height):
                continue
            if not (cores[box][parts[box] == part] == index).any():
                continue  # a seam between two others
            mask = _with_filled_holes(parts[box] == part, colours[box])
            kind, likeness = _kind_of(mask, round(max(width, height) * scale))
            if likeness > 0.55:
                extent = max(width, height)
                word = min(SIZES, key=lambda name: abs(np.log(extent / short / SIZES[name])))
                centre = ((x + width / 2) * scale, (y + height / 2) * scale)
                shapes.append(Shape(kind, colour, word, *centre, extent * scale))
    return shapes


def caption_is_true(image: Image.Image, caption: str) -> Verdict:
    """Whether what the caption says can be seen in the picture."""
    claim = claim_of(caption)
    if claim is None:
        return Verdict(False, [f"the caption says more than of shapes, or nothing of them: {caption!r}"])
    shapes = find_shapes(image)
    if is_true(claim, shapes):
        return Verdict(True)
    missing = [phrase for phrase in claim.phrases if not any(fits(phrase, shape) for shape in shapes)]
    seen = ", ".join(f"{shape.size} {shape.colour} {shape.kind}" for shape in shapes) or "no shape"
    reasons = [f"there is no {_spoken(phrase)}; seen: {seen}" for phrase in missing]
    if not missing:
        a, b = (_spoken(phrase) for phrase in claim.phrases[:2])
        reasons = [f"the {a} is not {claim.relation} the {b}" if claim.relation else f"seen only: {seen}"]
    return Verdict(False, reasons)


def _spoken(phrase: Phrase) -> str:
    return " ".join(filter(None, (phrase.size, phrase.colour, phrase.kind)))


def _colour_of_pixels(picture: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """0 for background, else 1 + the place of the colour; and the same for the cores of shapes alone.

    Where two colours meet, a small picture shows their mixture, which may look like a third. So the colours that are
    there are first learned from the cores, away from every edge, and then each pixel goes to the nearest of those.
    """
    bright = picture.max(-1).astype(int)
    chroma = bright - picture.min(-1)
    hue = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)[..., 0].astype(int)
    palette = np.array([COLOURS[name] for name in COLOURS if name != "black"], np.uint8)[None]
    hues = cv2.cvtColor(palette, cv2.COLOR_RGB2HSV_FULL)[0, :, 0].astype(int)
    away = np.abs(hue[..., None] - hues)
    nearest = np.minimum(away, 256 - away).argmin(-1) + 1
    first = np.where(chroma > CHROMA, nearest, np.where(bright < DARK, len(COLOURS), 0))
    cores = np.zeros_like(first)
    there, tones = [0], [np.median(picture[first == 0], 0) if (first == 0).any() else np.full(3, 225.0)]
    for index in range(1, len(COLOURS) + 1):
        core = cv2.erode((first == index).astype(np.uint8), CORE, borderValue=0) > 0
        if core.sum() >= LEAST_CORE:
            cores[core] = index
            there.append(index)
            tones.append(np.median(picture[core], 0))
    distance = ((picture[:, :, None].astype(np.float32) - np.array(tones, np.float32)) ** 2).sum(-1)
    return np.array(there)[distance.argmin(-1)], cores


def _with_filled_holes(mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Close the holes that another shape stands in; a ring's own hole shows background."""
    outside = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    hole = (outside[1:-1, 1:-1] == 0) & ~mask
    if hole.any() and (colours[hole] > 0).mean() > 0.2:
        return mask | hole
    return mask


def _kind_of(mask: np.ndarray, pixels: int) -> tuple[str, float]:
    """The kind whose outline overlaps best, and by how much (intersection over union)."""
    small = cv2.resize(mask.astype(np.float32), (TEMPLATE, TEMPLATE), interpolation=cv2.INTER_LINEAR)
    outlines = _outlines(min(pixels, SHARP))
    scores = [float(np.minimum(small, one).sum() / np.maximum(small, one).sum()) for one in outlines]
    best = int(np.argmax(scores))
    return KINDS[best], scores[best]


@lru_cache(maxsize=SHARP)
def _outlines(pixels: int) -> list[np.ndarray]:
    """Every kind as it looks in so many pixels, a little soft: a small star has lost its tips, so its outline must."""
    outlines = []
    side = 2 * max(pixels, 4)
    for kind in KINDS:
        canvas = np.zeros((400, 400, 3), np.uint8)
        paint(canvas, Shape(kind, "red", "large", 200, 200, 200), (255, 255, 255))
        seen = cv2.resize(canvas[..., 0], (side, side), interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(seen, (0, 0), SOFTNESS)
        sharp = cv2.resize(soft, (400, 400), interpolation=cv2.INTER_CUBIC) > 127
        rows, columns = np.where(sharp)
        cut = sharp[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32)
        outlines.append(cv2.resize(cut, (TEMPLATE, TEMPLATE), interpolation=cv2.INTER_AREA))
    return outlines
