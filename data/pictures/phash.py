"""The perceptual hash of a picture (pHash): 64 bits, as lists of known pictures carry it."""

import cv2
import numpy as np
from PIL import Image

SIDE = 8


def perceptual_hash(picture: Image.Image) -> int:
    """pHash as the imagehash library has it: which of the 64 lowest frequencies of 32 × 32 exceed their median."""
    grey = np.asarray(picture.convert("L").resize((4 * SIDE, 4 * SIDE), Image.Resampling.LANCZOS), np.float32)
    low = cv2.dct(grey)[:SIDE, :SIDE]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
