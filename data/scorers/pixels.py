"""Measurements of a picture's pixels: sharpness, brightness, contrast, entropy, border, colourfulness."""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from data.scorers.scorer import PictureScorer

SIDE = 256  # pixels of the longer side at which pictures are measured, so that their sizes do not matter
BORDER_TOLERANCE = 6  # grey levels within which a border counts as one colour


class PictureFacts(PictureScorer):
    """Measures a picture's pixels."""

    columns = pa.schema(
        {
            "blur": pa.float32(),  # variance of the Laplacian: low is blurred
            "brightness": pa.float32(),  # mean, 0 to 1
            "contrast": pa.float32(),  # standard deviation, 0 to 0.5
            "entropy": pa.float32(),  # of the grey levels, 0 to 8 bits: low is empty
            "border": pa.float32(),  # share of the area that is a frame of one colour
            "colour": pa.float32(),  # mean distance from grey, 0 to 1; 0 is a picture in grey
        }
    )

    def look(self, picture: Image.Image) -> dict[str, Any]:
        """The picture's measurements by column."""
        scale = min(1.0, SIDE / max(picture.size))
        size = (max(3, round(picture.width * scale)), max(3, round(picture.height * scale)))
        pixels = cv2.resize(np.asarray(picture), size, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        level_shares = np.bincount(grey.ravel(), minlength=256) / grey.size
        p = level_shares[level_shares > 0]
        chroma = pixels.max(2).astype(np.float32) - pixels.min(2)
        return {
            "blur": round(float(cv2.Laplacian(grey, cv2.CV_32F).var()), 3),
            "brightness": round(float(grey.mean()) / 255, 4),
            "contrast": round(float(grey.std()) / 255, 4),
            "entropy": round(abs(float(-(p * np.log2(p)).sum())), 4),
            "border": round(border_share(pixels), 4),
            "colour": round(float(chroma.mean()) / 255, 4),
        }


def border_share(pixels: np.ndarray) -> float:
    """The share of a picture's area that is a border in the colour of its corner.

    Args:
        pixels: h w 3, uint8.
    """
    differs = (np.abs(pixels.astype(np.int16) - pixels[0, 0]).max(2)) > BORDER_TOLERANCE
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return 1.0
    inner_area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return 1.0 - float(inner_area) / differs.size
