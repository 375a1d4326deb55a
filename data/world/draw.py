"""Draws scenes: antialiased shapes on a pale background of one of four kinds."""

import cv2
import numpy as np

from data.world.scene import COLOURS, Scene, Shape

SHIFT = 4  # fractional bits of cv2's coordinates
RING_HOLE = 0.52  # inner radius, as a share of the outer one
CROSS_ARM = 0.36  # half the width of an arm, as a share of half the extent
STAR_WAIST = 0.42  # radius of the inner corners, as a share of half the extent

Pixels = np.ndarray  # h w 3, uint8, RGB


def draw(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Draw a scene. Tones and background are random, given by `rng`."""
    picture = draw_background(scene, rng)
    for shape in sorted(scene.shapes, key=lambda shape: -shape.extent):  # a shape inside another comes on top
        tone = np.clip(np.array(COLOURS[shape.colour]) + rng.integers(-10, 11, 3), 0, 255)
        paint(picture, shape, tuple(int(part) for part in tone))
    return picture


def silhouette(scene: Scene) -> np.ndarray:
    """Return the mask of a scene's shapes: 255 inside, 0 outside, antialiased (h w, uint8)."""
    covered = np.zeros((scene.height, scene.width, 3), np.uint8)
    for shape in scene.shapes:
        paint(covered, shape, (255, 255, 255))
    return np.ascontiguousarray(covered[..., 0])


def draw_background(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Draw the background of a scene."""
    height, width = scene.height, scene.width
    tone, other = _pale_tone(rng), _pale_tone(rng)
    if scene.background == "plain":
        field = np.broadcast_to(tone, (height, width, 3))
    elif scene.background == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        ramp = np.cos(angle) * x + np.sin(angle) * y
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        field = tone + ramp[..., None] * (other - tone)
    elif scene.background == "texture":
        coarse = rng.normal(0, 9, (max(2, height // 6), max(2, width // 6)))
        grain = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 3, (height, width))
        field = tone + grain[..., None]
    else:
        period, angle = rng.uniform(12, 40), rng.uniform(0, np.pi)
        y, x = np.mgrid[0:height, 0:width]
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period)
        field = tone + np.clip(wave * 3, -1, 1)[..., None] * 10
    return np.ascontiguousarray(np.clip(field, 0, 255).astype(np.uint8))


def _pale_tone(rng: np.random.Generator) -> np.ndarray:
    """Return a light colour with little chroma, so that a background can't be mistaken for a shape."""
    return rng.uniform(205, 240) + rng.uniform(-13, 13, 3)


def paint(picture: Pixels, shape: Shape, tone: tuple[int, ...]) -> None:
    """Paint a shape onto a picture in place."""
    x, y, half = shape.x, shape.y, shape.extent / 2
    if shape.kind == "circle":
        cv2.circle(picture, _point(x, y), round(half * 2**SHIFT), tone, -1, cv2.LINE_AA, SHIFT)
    elif shape.kind == "ring":
        width = half * (1 - RING_HOLE)
        cv2.fillPoly(picture, [_circle(x, y, half), _circle(x, y, half - width)], tone, cv2.LINE_AA, SHIFT)
    else:
        cv2.fillPoly(picture, [_corners(shape.kind, x, y, half)], tone, cv2.LINE_AA, SHIFT)


def _corners(kind: str, x: float, y: float, half: float) -> np.ndarray:
    """Return the corners of a shape in cv2's fixed-point coordinates."""
    unit: list[tuple[float, float]]
    if kind == "square":
        unit = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif kind == "triangle":
        unit = [(0, -1), (1, 1), (-1, 1)]
    elif kind == "cross":
        a = CROSS_ARM
        unit = [
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        ]
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, STAR_WAIST, 1.05)
        unit = list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))
    return np.array([_point(x + u * half, y + v * half) for u, v in unit], np.int32)


def _circle(x: float, y: float, radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return np.array([_point(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles], np.int32)


def _point(x: float, y: float) -> tuple[int, int]:
    """Convert a point to cv2's fixed-point coordinates."""
    return round(x * 2**SHIFT), round(y * 2**SHIFT)
