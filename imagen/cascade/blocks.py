"""The parts of the U-Nets: residual blocks, attention over pixels and text, and the pooling of a text into one vector.

arXiv 2205.11487, section 2.4 and appendices B and F. Shapes: b samples, c channels, h w pixels, n tokens, d width.
The names of layers are the names of tensors in models' folders and checkpoints, so they never change.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_CHANNELS = 64  # of an attention head
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class ResBlock(nn.Module):
    """Two convolutions with a residual connection; the time embedding scales and shifts the second one's input.

    `skip` counts the channels that the skip connection from the encoder adds to the input.
    """

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
        residual: Tensor = self.past(x)
        return residual + y


class Attention(nn.Module):
    """Self-attention over pixels and cross-attention to the text, together in one softmax (appendix B)."""

    def __init__(self, channels: int, width: int, self_attention: bool, cross_attention: bool) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.norm = group_norm(channels)
        self.ask = nn.Linear(channels, channels)  # queries
        self.pixels = nn.Linear(channels, 2 * channels) if self_attention else None  # keys and values
        self.text = nn.Linear(width, 2 * channels) if cross_attention else None
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:  # b c h w, b n d, b n
        b, c, h, w = x.shape
        y = self.norm(x).flatten(2).transpose(1, 2)
        keys_values, masks = [], []
        if self.pixels is not None:
            keys_values.append(self.pixels(y))
            masks.append(text_mask.new_ones(b, h * w))
        if self.text is not None:
            keys_values.append(self.text(text))
            masks.append(text_mask)
        key, value = torch.cat(keys_values, 1).chunk(2, dim=-1)
        # Without text nothing is masked, and attention without a mask has a faster kernel.
        mask = torch.cat(masks, 1)[:, None, None] if self.text is not None else None
        y = attention(self.ask(y), key, value, self.heads, mask)
        return x + self.out(y).transpose(1, 2).reshape(b, c, h, w)


class TextPool(nn.Module):
    """Pools a text's tokens into one vector by attention (section 2.4, appendix F).

    The query is the mean of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_CHANNELS)
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, width)  # query
        self.tell = nn.Linear(width, 2 * width)  # keys and values
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:  # b n d, b n
        y = self.norm(text)
        mean = (y * mask[..., None]).sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
        key, value = self.tell(y).chunk(2, dim=-1)
        attended = attention(self.ask(mean), key, value, self.heads, mask[:, None, None])
        pooled: Tensor = self.out((mean + attended)[:, 0])
        return pooled


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Multi-head attention; `mask` is true for the keys that a query may attend to. Shapes: b n d, b m d, b m d."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))  # b heads n d
    return F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group normalization with up to 32 groups of at least four channels each."""
    return nn.GroupNorm(math.gcd(channels, min(32, channels // 4)), channels)


def zero_init(layer: Layer) -> Layer:
    """Set a layer's weights to zero: a residual block that ends with it begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
