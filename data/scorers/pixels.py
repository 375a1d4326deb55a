"""What can be measured on the pixels of a picture: sharpness, light, colour, how much there is to see."""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from data.scorers.scorer import PictureScorer

SIDE = 256  # pixels of the longer side at which all is measured, so that figures of different sizes compare
FLAT = 6  # grey levels within which a border is one colour


class PictureFacts(PictureScorer):
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
        scale = min(1.0, SIDE / max(picture.size))
        size = (max(3, round(picture.width * scale)), max(3, round(picture.height * scale)))
        pixels = cv2.resize(np.asarray(picture), size, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        shares = np.bincount(grey.ravel(), minlength=256) / grey.size
        present = shares[shares > 0]
        spread = pixels.max(2).astype(np.float32) - pixels.min(2)
        return {
            "blur": round(float(cv2.Laplacian(grey, cv2.CV_32F).var()), 3),
            "brightness": round(float(grey.mean()) / 255, 4),
            "contrast": round(float(grey.std()) / 255, 4),
            "entropy": round(abs(float(-(present * np.log2(present)).sum())), 4),
            "border": round(border(pixels), 4),
            "colour": round(float(spread.mean()) / 255, 4),
        }


def border(pixels: np.ndarray) -> float:
    """The share of a picture's area that lies outside the smallest box with all that differs from its corner."""
    differs = (np.abs(pixels.astype(np.int16) - pixels[0, 0]).max(2)) > FLAT
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return 1.0
    inside = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return 1.0 - float(inside) / differs.size
