"""By what pictures are recognised: a perceptual hash of 64 bits, as lists of known pictures carry it, and a thumbnail.

The hash sees no colour and moves when a picture is cropped; the thumbnail of 8 × 8 sees and bears both, and tells near
duplicates from look-alikes (data/pictures/near_duplicates.py).
"""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from data.pictures.phash import SIDE, perceptual_hash
from data.scorers.scorer import PictureScorer


class PerceptualHash(PictureScorer):
    columns = pa.schema({"hash": pa.string(), "thumbnail": pa.binary()})

    def look(self, picture: Image.Image) -> dict[str, Any]:
        pixels = np.asarray(picture)
        thumbnail = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return {"hash": f"{perceptual_hash(picture):016x}", "thumbnail": thumbnail.tobytes()}
