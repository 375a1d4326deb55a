"""Finds the shapes in a picture from its pixels, and checks whether a caption is true of the picture.

This uses no trained model and no labels. Saturated or dark pixels are assigned to the nearest colour, and connected
pixels of one colour form a shape. The outline of the shape is compared with the outlines of all kinds of shapes.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from data.world.draw import Pixels, paint
from data.world.grammar import claim_of
from data.world.scene import COLOURS, KINDS, SIZES, Phrase, Shape, is_true, matches

MIN_CHROMA = 75  # of 255; pixels with less chroma are background
MAX_BLACK = 75  # of 255; the brightest channel of a black pixel
MIN_AREA = 0.006  # of the squared short side; smaller components are noise
MIN_SQUARENESS = 0.5  # shorter side divided by longer side of a shape's bounding box
MIN_OVERLAP = 0.55  # between a shape's outline and that of its kind
CORE = np.ones((5, 5), np.uint8)  # erodes a shape to pixels that are not mixed with another colour
MIN_CORE = 12  # pixels
TEMPLATE = 32  # pixels of the side of compared outlines
SHARP = 48  # pixels; larger shapes have a sharp outline
BLUR = 0.6  # pixels
WORKING_SIDE = 128  # pixels; pictures are resized to this short side


@dataclass(frozen=True)
class Verdict:
    """Says whether a caption is true of a picture, and if not, gives the reasons."""

    true: bool
    reasons: list[str] = field(default_factory=list)


def find_shapes(image: Image.Image) -> list[Shape]:
    """Find every shape in a picture. Positions are in pixels of this picture."""
    original = image.convert("RGB")
    scale = min(original.size) / WORKING_SIDE
    size = (max(1, round(original.width / scale)), max(1, round(original.height / scale)))
    picture = np.asarray(original.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
    short = min(size)
    colours, cores = _assign_colours(picture)
    shapes = []
    for index, colour in enumerate(COLOURS, 1):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((colours == index).astype(np.uint8), connectivity=4)
        for label in range(1, count):
            x, y, width, height, area = (int(value) for value in stats[label])
            box = (slice(y, y + height), slice(x, x + width))
            if area < MIN_AREA * short**2 or min(width, height) < MIN_SQUARENESS * max(width, height):
                continue
            if not (cores[box][labels[box] == label] == index).any():
                continue  # a seam of mixed colour between two shapes
            mask = _fill_covered_holes(labels[box] == label, colours[box])
            extent = max(width, height)
            kind, overlap = _best_kind(mask, round(extent * scale))
            if overlap > MIN_OVERLAP:
                size_name = min(SIZES, key=lambda name: abs(np.log(extent / short / SIZES[name])))
                centre = ((x + width / 2) * scale, (y + height / 2) * scale)
                shapes.append(Shape(kind, colour, size_name, *centre, extent * scale))
    return shapes


def caption_is_true(image: Image.Image, caption: str) -> Verdict:
    """Check whether the picture shows what the caption says."""
    claim = claim_of(caption)
    if claim is None:
        return Verdict(False, [f"the caption names no shapes, or says something else too: {caption!r}"])
    shapes = find_shapes(image)
    if is_true(claim, shapes):
        return Verdict(True)
    missing = [phrase for phrase in claim.phrases if not any(matches(phrase, shape) for shape in shapes)]
    in_picture = ", ".join(f"{shape.size} {shape.colour} {shape.kind}" for shape in shapes) or "no shape"
    reasons = [f"there is no {_phrase_text(phrase)}; the picture has: {in_picture}" for phrase in missing]
    if not missing:
        a, b = (_phrase_text(phrase) for phrase in claim.phrases[:2])
        reasons = [f"the {a} is not {claim.relation} the {b}" if claim.relation else f"the picture has: {in_picture}"]
    return Verdict(False, reasons)


def _phrase_text(phrase: Phrase) -> str:
    return " ".join(filter(None, (phrase.size, phrase.colour, phrase.kind)))


def _assign_colours(picture: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Assign a number to each pixel: 0 for the background, else 1 + the index of its colour in COLOURS.

    Where two colours meet in a small picture, pixels mix both and may look like a third colour. So the tones in the
    picture are first measured in the cores of shapes, away from edges. Then each pixel gets the nearest of these tones.

    Returns:
        The colours of all pixels, and an array that has only the colours of the pixels in cores, and 0 elsewhere.
    """
    bright = picture.max(-1).astype(int)
    chroma = bright - picture.min(-1)
    hue = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)[..., 0].astype(int)
    palette = np.array([COLOURS[name] for name in COLOURS if name != "black"], np.uint8)[None]
    hues = cv2.cvtColor(palette, cv2.COLOR_RGB2HSV_FULL)[0, :, 0].astype(int)
    hue_distance = np.abs(hue[..., None] - hues)
    nearest_hue = np.minimum(hue_distance, 256 - hue_distance).argmin(-1) + 1
    black_or_background = np.where(bright < MAX_BLACK, len(COLOURS), 0)  # black is the last of COLOURS
    by_hue = np.where(chroma > MIN_CHROMA, nearest_hue, black_or_background)
    cores = np.zeros_like(by_hue)
    background = picture[by_hue == 0]
    indices, tones = [0], [np.median(background, 0) if len(background) else np.full(3, 225.0)]
    for index in range(1, len(COLOURS) + 1):
        core = cv2.erode((by_hue == index).astype(np.uint8), CORE, borderValue=0) > 0
        if core.sum() >= MIN_CORE:
            cores[core] = index
            indices.append(index)
            tones.append(np.median(picture[core], 0))
    distance = ((picture[:, :, None].astype(np.float32) - np.array(tones, np.float32)) ** 2).sum(-1)
    return np.array(indices)[distance.argmin(-1)], cores


def _fill_covered_holes(mask: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Fill holes that another shape covers. The hole of a ring shows background, so it is not filled."""
    outside = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    hole = (outside[1:-1, 1:-1] == 0) & ~mask
    if hole.any() and (colours[hole] > 0).mean() > 0.2:
        return mask | hole
    return mask


def _best_kind(mask: np.ndarray, extent: int) -> tuple[str, float]:
    """Return the kind whose outline overlaps best with a mask, and the overlap (intersection over union)."""
    small = cv2.resize(mask.astype(np.float32), (TEMPLATE, TEMPLATE), interpolation=cv2.INTER_LINEAR)
    outlines = _outlines(min(extent, SHARP))
    overlaps = [float(np.minimum(small, outline).sum() / np.maximum(small, outline).sum()) for outline in outlines]
    best = int(np.argmax(overlaps))
    return KINDS[best], overlaps[best]


@lru_cache(maxsize=SHARP)
def _outlines(extent: int) -> list[np.ndarray]:
    """Return the outline of every kind of shape, blurred as at this extent in pixels: a small star loses its tips."""
    outlines = []
    side = 2 * max(extent, 4)
    for kind in KINDS:
        canvas = np.zeros((400, 400, 3), np.uint8)
        paint(canvas, Shape(kind, "red", "large", 200, 200, 200), (255, 255, 255))
        small = cv2.resize(canvas[..., 0], (side, side), interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(small, (0, 0), BLUR)
        mask = cv2.resize(blurred, (400, 400), interpolation=cv2.INTER_CUBIC) > 127
        rows, columns = np.where(mask)
        cropped = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.float32)
        outlines.append(cv2.resize(cropped, (TEMPLATE, TEMPLATE), interpolation=cv2.INTER_AREA))
    return outlines
