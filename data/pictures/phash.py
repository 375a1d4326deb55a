"""Computes the perceptual hash (pHash) of a picture: 64 bits, as in published lists of known pictures."""

import cv2
import numpy as np
from PIL import Image

SIDE = 8


def perceptual_hash(picture: Image.Image) -> int:
    """Compute the pHash of a picture. The result equals that of the imagehash library.

    The picture is reduced to 32 × 32 grey values, and their cosine transform is computed. Each bit says whether one of
    the 64 lowest frequencies exceeds the median of these 64.
    """
    grey = np.asarray(picture.convert("L").resize((4 * SIDE, 4 * SIDE), Image.Resampling.LANCZOS), np.float32)
    low = cv2.dct(grey)[:SIDE, :SIDE]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
