"""Square pictures of one size, by cropping or padding."""

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Fit = Literal["crop", "pad"]


def square(picture: "Tensor", side: int, fit: Fit) -> "Tensor":  # 3 h w, uint8
    """Crop the middle, or pad by the pixels at the edge; then resize. A caption may be of what a crop cuts off."""
    import torch

    if picture.shape[1:] == (side, side):  # such as a dataset's copies of that size
        return picture.contiguous()
    pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    height, width = pixels.shape[:2]
    if fit == "pad":
        down, across = max(0, width - height), max(0, height - width)
        edges = down // 2, down - down // 2, across // 2, across - across // 2
        pixels = cv2.copyMakeBorder(pixels, *edges, cv2.BORDER_REPLICATE)
    else:
        least = min(height, width)
        top, left = (height - least) // 2, (width - least) // 2
        pixels = pixels[top : top + least, left : left + least]
    way = cv2.INTER_AREA if side < min(height, width) else cv2.INTER_CUBIC  # the one shrinks without moiré
    return torch.from_numpy(cv2.resize(pixels, (side, side), interpolation=way)).permute(2, 0, 1).contiguous()
