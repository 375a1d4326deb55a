"""By what pictures are recognised: a perceptual hash of 64 bits, as lists of known pictures carry it, and a thumbnail.

The hash sees no colour and moves when a picture is cropped; the thumbnail of 8 × 8 sees and bears both, and tells near
duplicates from look-alikes (data/pictures/near_duplicates.py).
"""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from data.scorers.scorer import PictureScorer

SIDE = 8


class PerceptualHash(PictureScorer):
    columns = pa.schema({"hash": pa.string(), "thumbnail": pa.binary()})

    def look(self, picture: Image.Image) -> dict[str, Any]:
        pixels = np.asarray(picture)
        thumbnail = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return {"hash": f"{perceptual_hash(picture):016x}", "thumbnail": thumbnail.tobytes()}


def perceptual_hash(picture: Image.Image) -> int:
    """pHash as the imagehash library has it: which of the 64 lowest frequencies of 32 × 32 exceed their median."""
    grey = np.asarray(picture.convert("L").resize((4 * SIDE, 4 * SIDE), Image.Resampling.LANCZOS), np.float32)
    low = cv2.dct(grey)[:SIDE, :SIDE]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
