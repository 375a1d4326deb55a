"""Measures a picture's pixels: sharpness, brightness, contrast, entropy, border, colourfulness."""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from data.scorers.scorer import PictureScorer

SIDE = 256  # larger pictures are reduced to this longer side, in pixels, so that their sizes hardly matter
BORDER_TOLERANCE = 6  # grey levels within which a border counts as one colour


class PictureFacts(PictureScorer):
    """Measures a picture's pixels."""

    columns = pa.schema(
        {
            "blur": pa.float32(),  # variance of the Laplacian: low for a blurred picture
            "brightness": pa.float32(),  # mean, 0 to 1
            "contrast": pa.float32(),  # standard deviation, 0 to 0.5
            "entropy": pa.float32(),  # of the grey levels, 0 to 8 bits: low for an empty picture
            "border": pa.float32(),  # share of the area taken up by a border of one colour
            "colour": pa.float32(),  # mean distance from grey, 0 to 1; 0 for a picture in grey
        }
    )

    def look(self, picture: Image.Image) -> dict[str, Any]:
        """Return the picture's measurements, keyed by column."""
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
    """Return the share of a picture's area taken up by a border of one colour, that of the top-left pixel.

    Args:
        pixels: h w 3, uint8.
    """
    differs = (np.abs(pixels.astype(np.int16) - pixels[0, 0]).max(2)) > BORDER_TOLERANCE
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return 1.0
    inner_area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    return 1.0 - float(inner_area) / differs.size
