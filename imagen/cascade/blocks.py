"""What the U-Nets are made of: residual blocks, attention over pixels and text, and how a text becomes one vector.

Arxiv 2205.11487, section 2.4 and appendices B and F. Shapes: b samples, c channels, h w pixels, n tokens, d width.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 64  # channels of an attention head
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class ResBlock(nn.Module):
    """Two convolutions, the second scaled and shifted by time; `skip` more channels come across from the way down."""

    def __init__(self, channels: int, out: int, width: int, skip: int = 0) -> None:
        super().__init__()
        self.norm1 = group_norm(channels + skip)
        self.conv1 = nn.Conv2d(channels + skip, out, 3, padding=1)
        self.time = nn.Linear(width, 2 * out)
        self.norm2 = group_norm(out)
        self.conv2 = zero_init(nn.Conv2d(out, out, 3, padding=1))
        self.past = nn.Conv2d(channels + skip, out, 1) if channels + skip != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # b c h w, b d
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        past: Tensor = self.past(x)
        return past + y


class Attention(nn.Module):
    """Pixels ask the text if they `read`, and each other if they `attend`; both in one softmax (appendix B)."""

    def __init__(self, channels: int, width: int, attend: bool, read: bool) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        self.norm = group_norm(channels)
        self.ask = nn.Linear(channels, channels)
        self.pixels = nn.Linear(channels, 2 * channels) if attend else None
        self.text = nn.Linear(width, 2 * channels) if read else None
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Tensor, seen: Tensor) -> Tensor:  # b c h w, b n d, b n
        b, c, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)
        told, visible = [], []
        if self.pixels is not None:
            told.append(self.pixels(y))
            visible.append(seen.new_ones(b, h * w))
        if self.text is not None:
            told.append(self.text(text))
            visible.append(seen)
        key, value = torch.cat(told, 1).chunk(2, dim=-1)
        # Without text nothing is hidden, and attention without a mask takes the faster way.
        mask = torch.cat(visible, 1)[:, None, None] if self.text is not None else None
        y = attention(self.ask(y), key, value, self.heads, mask)
        return x + self.out(y).transpose(1, 2).reshape(b, c, h, w)


class TextPool(nn.Module):
    """One vector of a text, to which its mean attends (section 2.4, appendix F: attention pooling)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, width)
        self.tell = nn.Linear(width, 2 * width)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, text: Tensor, seen: Tensor) -> Tensor:  # b n d, b n
        y = self.norm(text)
        mean = (y * seen[..., None]).sum(1, keepdim=True) / seen.sum(1).clamp(min=1)[:, None, None]
        key, value = self.tell(y).chunk(2, dim=-1)
        pooled: Tensor = self.out((mean + attention(self.ask(mean), key, value, self.heads, seen[:, None, None]))[:, 0])
        return pooled


def attention(ask: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:  # b n d, b m d
    ask, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (ask, key, value))  # b heads n d
    return F.scaled_dot_product_attention(ask, key, value, mask).transpose(1, 2).flatten(2)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, min(32, channels // 4)), channels)


def zero_init(layer: Layer) -> Layer:
    """A block whose last layer this is begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
