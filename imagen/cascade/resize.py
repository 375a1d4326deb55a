"""Downsampling, upsampling, and noise on the low-resolution image. Tensors b 3 h w, -1 to 1."""

import torch
from torch import Tensor
from torch.nn import functional as F


def shrink(pixels: Tensor, side: int) -> Tensor:
    """Downsample to squares of `side` pixels (bicubic, antialiased)."""
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def enlarge(pixels: Tensor, side: int) -> Tensor:
    """Upsample to squares of `side` pixels (bilinear)."""
    return F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)


def add_conditioning_noise(low_res: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Add noise to the low-resolution image: noise conditioning augmentation (arXiv 2205.11487, section 2.5).

    The noise follows a cosine schedule. `level` has shape b and values from 0 to 1.
    """
    angle = (level * torch.pi / 2)[:, None, None, None]
    return torch.cos(angle) * low_res + torch.sin(angle) * noise
