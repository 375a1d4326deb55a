"""Makes pictures square and resizes them to the same size, by cropping or padding."""

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Fit = Literal["crop", "pad"]


def square(picture: "Tensor", side: int, fit: Fit) -> "Tensor":  # 3 h w, uint8
    """Make a picture square and resize it.

    Args:
        picture: 3 × height × width, uint8.
        side: The side of the result in pixels.
        fit: `crop` keeps the middle, so it may cut off things in the caption. `pad` repeats the pixels at the edge.
    """
    import torch  # imported here, because configurations need only `Fit` and torch takes seconds to load

    if picture.shape[1:] == (side, side):  # such as the resized copies of a dataset
        return picture.contiguous()
    pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    height, width = pixels.shape[:2]
    if fit == "pad":
        down, across = max(0, width - height), max(0, height - width)
        borders = down // 2, down - down // 2, across // 2, across - across // 2
        pixels = cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_REPLICATE)
    else:
        least = min(height, width)
        top, left = (height - least) // 2, (width - least) // 2
        pixels = pixels[top : top + least, left : left + least]
    shrinks = side < min(height, width)
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC  # INTER_AREA avoids moiré when shrinking
    return torch.from_numpy(cv2.resize(pixels, (side, side), interpolation=interpolation)).permute(2, 0, 1).contiguous()
