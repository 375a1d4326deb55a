"""Computes a perceptual hash and a thumbnail of each picture, by which duplicates are recognised.

The hash has 64 bits, and is the kind that published lists of known pictures use. It ignores colour and changes when a
picture is cropped. The thumbnail of 8 x 8 pixels has colour, and cropping changes it only a little. It distinguishes
near duplicates from pictures that merely have the same composition (data/pictures/near_duplicates.py).
"""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from data.pictures.phash import SIDE, perceptual_hash
from data.scorers.scorer import PictureScorer


class PerceptualHash(PictureScorer):
    """Computes a picture's perceptual hash (16 hex digits) and its thumbnail (RGB bytes)."""

    columns = pa.schema({"hash": pa.string(), "thumbnail": pa.binary()})

    def look(self, picture: Image.Image) -> dict[str, Any]:
        """Compute the picture's hash and thumbnail."""
        pixels = np.asarray(picture)
        thumbnail = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return {"hash": f"{perceptual_hash(picture):016x}", "thumbnail": thumbnail.tobytes()}
