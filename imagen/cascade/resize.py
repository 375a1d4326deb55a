"""Smaller pictures, larger ones, and the noise that is put on a smaller one. Tensors b 3 h w, -1 to 1."""

import torch
from torch import Tensor
from torch.nn import functional as F


def shrink(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def enlarge(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)


def add_conditioning_noise(small: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Noise conditioning augmentation (arXiv 2205.11487, section 2.5): as a cosine schedule has it at each level."""
    angle = (level * torch.pi / 2)[:, None, None, None]
    return torch.cos(angle) * small + torch.sin(angle) * noise
