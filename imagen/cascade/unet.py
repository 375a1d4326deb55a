"""The U-Net of every stage: the base model, and the Efficient U-Net that goes by a smaller picture and enlarges it.

Arxiv 2205.11487, sections 2.3 and 2.4, appendices B and F. In an efficient one pixels are merged before the
convolutions of a level and spread after them, so that a level works on a quarter of the pixels.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from imagen.cascade.blocks import Attention, ResBlock, TextPool, group_norm, zero_init

WAVES = 128  # sines and cosines that say a time or a noise level
SKIP = 2**-0.5  # the scale of what comes across; the SR models learn the faster for it (appendix B)


class UNet(ModelMixin, ConfigMixin):
    """Noisy pixels, time and text in; out comes what the objective asks for: the noise, the picture, or a velocity."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channels: tuple[int, ...] = (128, 256, 384, 512),  # of each level, the finest first
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        attend: tuple[bool, ...] = (False, True, True, True),  # levels whose pixels attend to each other
        read: tuple[bool, ...] = (False, True, True, True),  # levels whose pixels attend to the text
        text_width: int | None = 768,  # none: a model that knows no text
        width: int | None = None,  # of what time and text become; four times the first channels if not given
        efficient: bool = False,
        enlarges: bool = False,  # goes by a smaller picture, and by how much noise was put on that
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        width = width or 4 * channels[0]
        read = read if text_width else (False,) * len(read)
        self.waves = Timesteps(WAVES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(WAVES, width)
        self.noise = TimestepEmbedding(WAVES, width) if enlarges else None
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width)) if text_width else None
        self.pool = TextPool(width) if text_width else None
        self.null = nn.Parameter(torch.randn(1, 1, width) / width**0.5) if text_width else None  # a dropped caption
        self.first = nn.Conv2d(6 if enlarges else 3, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now = channels[0]
        levels = list(zip(channels, blocks, attend, read, strict=True))
        for at, (own, count, attends, reads) in enumerate(levels):
            shrink = nn.Conv2d(now, own if efficient else now, 3, stride=2, padding=1) if efficient or at else None
            now = own if efficient else now
            self.down.append(Level(now, own, width, [0] * count, attends, reads, shrink=shrink))
            now = own
        self.middle = None if efficient else Level(now, now, width, [0, 0], attend[-1], read[-1])
        for at, (own, count, attends, reads) in reversed(list(enumerate(levels))):
            finer = channels[max(0, at - 1)] if efficient else own
            grow = nn.Conv2d(own, finer, 3, padding=1) if efficient or at else None
            skips = [own] + [0] * (count - 1) if efficient else [own] * count
            self.up.append(Level(now, own, width, skips, attends, reads, grow=grow))
            now = finer
        self.across = zero_init(nn.Linear(width, 2 * channels[0])) if efficient else None
        self.last = nn.Sequential(group_norm(now), nn.SiLU(), zero_init(nn.Conv2d(now, 3, 3, padding=1)))

    def forward(
        self,
        pixels: Tensor,  # b 3 h w
        time: Tensor,  # b, in the schedule's steps
        text: Tensor | None = None,  # b n d, as the encoder left it
        seen: Tensor | None = None,  # b n: which tokens are there; a text without any is a dropped one
        small: Tensor | None = None,  # b 3 h w, the smaller picture, enlarged and noised
        noise: Tensor | None = None,  # b, how much, 0 to 1
    ) -> Tensor:
        state = self.time(self.waves(time.expand(len(pixels))).to(pixels.dtype))
        if self.noise is not None:
            if small is None or noise is None:
                raise ValueError("this model enlarges: give it the smaller picture and the noise on it")
            state = state + self.noise(self.waves(1000 * noise).to(pixels.dtype))
            pixels = torch.cat([pixels, small], 1)
        tokens, seen = self._read(text, seen, pixels)
        if self.pool is not None:
            state = state + self.pool(tokens, seen)
        x, skips = self.first(pixels), []
        finest = x
        for level in self.down:
            x, every = self._run(level, x, state, tokens, seen, [])
            skips.append(every)
        if self.middle is not None:
            x, _ = self._run(self.middle, x, state, tokens, seen, [])
        for level in self.up:
            x, _ = self._run(level, x, state, tokens, seen, skips.pop())
        if self.across is not None:  # what no level sees: each pixel with its noise, of which time says how much
            scale, shift = self.across(F.silu(state))[:, :, None, None].chunk(2, dim=1)
            x = x + SKIP * (finest * (1 + scale) + shift)
        told: Tensor = self.last(x)
        return told

    def _read(self, text: Tensor | None, seen: Tensor | None, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens at our width; where a text has none, the one that says so."""
        if self.text is None or self.null is None:
            nothing = pixels.new_zeros(len(pixels), 0, 0)
            return nothing, torch.ones(len(pixels), 0, dtype=torch.bool, device=pixels.device)
        null = self.null.expand(len(pixels), 1, -1)
        if text is None or seen is None:
            return null, torch.ones(len(pixels), 1, dtype=torch.bool, device=pixels.device)
        return torch.cat([null, self.text(text)], 1), torch.cat([~seen.any(1, keepdim=True), seen], 1)

    def _run(self, level: nn.Module, *state: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(level, *state, use_reentrant=False)
        return level(*state)


class Level(nn.Module):
    """The blocks that work at one resolution, on the way down or up, and after the last of them attention (the paper's
    DBlock and UBlock). Gives its pixels, and those after each block.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        width: int,
        skips: list[int],  # channels that come across to each block
        attend: bool,
        read: bool,
        shrink: nn.Module | None = None,
        grow: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shrink, self.grow = shrink, grow
        self.takes = [skip > 0 for skip in skips]
        self.blocks = nn.ModuleList()
        for skip in skips:
            self.blocks.append(ResBlock(channels, out, width, skip))
            channels = out
        self.attention = Attention(out, width, attend, read) if attend or read else None

    def forward(
        self, x: Tensor, state: Tensor, text: Tensor, seen: Tensor, across: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        every, across = [], list(across)
        if self.shrink is not None:
            x = self.shrink(x)
        for block, takes in zip(self.blocks, self.takes, strict=True):
            x = block(torch.cat([x, SKIP * across.pop()], 1) if takes else x, state)
            every.append(x)
        if self.attention is not None:
            x = every[-1] = self.attention(x, text, seen)
        if self.grow is not None:
            x = self.grow(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x, every
