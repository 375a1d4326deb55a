"""The U-Net of every stage: the base model, and the Efficient U-Net for super-resolution.

arXiv 2205.11487, sections 2.3 and 2.4, appendices B and F. An efficient U-Net downsamples before the convolutions of a
level and upsamples after them, so that a level works on a quarter of the pixels. The names of layers are the names of
tensors in models' folders and checkpoints, and the arguments of `UNet` are stored there too: neither ever changes.
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

SINUSOIDS = 128  # sines and cosines that encode a time step or a noise level
SKIP_SCALE = 2**-0.5  # of skip connections: super-resolution models converge faster with it (appendix B)


class UNet(ModelMixin, ConfigMixin):
    """Predicts noise, image or velocity, as the objective says, from noisy images, time steps and text.

    Args:
        resolution: side of the images in pixels.
        channels: number of channels of each level, the finest level first.
        blocks: number of residual blocks in each level.
        attend: whether each level has self-attention over pixels.
        read: whether each level has cross-attention to the text.
        text_width: width of the text embeddings; None for a model without text.
        width: width of the time and text embeddings inside the model; by default four times the channels of the finest
            level.
        efficient: whether this is an Efficient U-Net.
        enlarges: whether this is a super-resolution model, conditioned on a noisy low-resolution image.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channels: tuple[int, ...] = (128, 256, 384, 512),
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        attend: tuple[bool, ...] = (False, True, True, True),
        read: tuple[bool, ...] = (False, True, True, True),
        text_width: int | None = 768,
        width: int | None = None,
        efficient: bool = False,
        enlarges: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        width = width or 4 * channels[0]
        read = read if text_width else (False,) * len(read)
        self.waves = Timesteps(SINUSOIDS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(SINUSOIDS, width)
        self.noise = TimestepEmbedding(SINUSOIDS, width) if enlarges else None
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width)) if text_width else None
        self.pool = TextPool(width) if text_width else None
        self.null = nn.Parameter(torch.randn(1, 1, width) / width**0.5) if text_width else None  # a dropped caption
        self.first = nn.Conv2d(6 if enlarges else 3, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        current = channels[0]
        levels = list(zip(channels, blocks, attend, read, strict=True))
        for index, (out, count, self_attention, cross_attention) in enumerate(levels):
            downsample = None
            if efficient or index:
                downsample = nn.Conv2d(current, out if efficient else current, 3, stride=2, padding=1)
            current = out if efficient else current
            skips = [0] * count
            self.down.append(Level(current, out, width, skips, self_attention, cross_attention, downsample))
            current = out
        self.middle = None if efficient else Level(current, current, width, [0, 0], attend[-1], read[-1])
        for index, (out, count, self_attention, cross_attention) in reversed(list(enumerate(levels))):
            finer = channels[max(0, index - 1)] if efficient else out
            upsample = nn.Conv2d(out, finer, 3, padding=1) if efficient or index else None
            skips = [out] + [0] * (count - 1) if efficient else [out] * count
            self.up.append(Level(current, out, width, skips, self_attention, cross_attention, upsample=upsample))
            current = finer
        self.across = zero_init(nn.Linear(width, 2 * channels[0])) if efficient else None
        self.last = nn.Sequential(group_norm(current), nn.SiLU(), zero_init(nn.Conv2d(current, 3, 3, padding=1)))

    def forward(
        self,
        pixels: Tensor,  # b 3 h w
        time: Tensor,  # b, in the schedule's steps
        text: Tensor | None = None,  # b n d, as the text encoder made it
        mask: Tensor | None = None,  # b n: true for tokens of the text; a row without any is a dropped caption
        low_res: Tensor | None = None,  # b 3 h w, the low-resolution image, enlarged and noised
        noise_level: Tensor | None = None,  # b, 0 to 1: the noise on it
    ) -> Tensor:  # b 3 h w
        state = self.time(self.waves(time.expand(len(pixels))).to(pixels.dtype))
        if self.noise is not None:
            if low_res is None or noise_level is None:
                raise ValueError("a super-resolution model needs the low-resolution image and the noise level on it")
            state = state + self.noise(self.waves(1000 * noise_level).to(pixels.dtype))
            pixels = torch.cat([pixels, low_res], 1)
        tokens, mask = self._embed_text(text, mask, pixels)
        if self.pool is not None:
            state = state + self.pool(tokens, mask)
        x, skips = self.first(pixels), []
        finest = x
        for level in self.down:
            x, outputs = self._run(level, x, state, tokens, mask, [])
            skips.append(outputs)
        if self.middle is not None:
            x, _ = self._run(self.middle, x, state, tokens, mask, [])
        for level in self.up:
            x, _ = self._run(level, x, state, tokens, mask, skips.pop())
        if self.across is not None:  # each pixel with its noise at full resolution, which no efficient level has
            scale, shift = self.across(F.silu(state))[:, :, None, None].chunk(2, dim=1)
            x = x + SKIP_SCALE * (finest * (1 + scale) + shift)
        prediction: Tensor = self.last(x)
        return prediction

    def _embed_text(self, text: Tensor | None, mask: Tensor | None, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens projected to the model's width, and their mask.

        The first token is a learned one, which stands for a text without tokens.
        """
        if self.text is None or self.null is None:
            nothing = pixels.new_zeros(len(pixels), 0, 0)
            return nothing, torch.ones(len(pixels), 0, dtype=torch.bool, device=pixels.device)
        null = self.null.expand(len(pixels), 1, -1)
        if text is None or mask is None:
            return null, torch.ones(len(pixels), 1, dtype=torch.bool, device=pixels.device)
        return torch.cat([null, self.text(text)], 1), torch.cat([~mask.any(1, keepdim=True), mask], 1)

    def _run(self, level: nn.Module, *state: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(level, *state, use_reentrant=False)
        return level(*state)


class Level(nn.Module):
    """The residual blocks of one resolution in the encoder or decoder, and attention after the last of them.

    These are the paper's DBlock and UBlock. `skips` counts the channels that each block takes from the encoder.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        width: int,
        skips: list[int],
        self_attention: bool,
        cross_attention: bool,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shrink, self.grow = downsample, upsample
        self.takes_skip = [skip > 0 for skip in skips]
        self.blocks = nn.ModuleList()
        for skip in skips:
            self.blocks.append(ResBlock(channels, out, width, skip))
            channels = out
        self.attention: Attention | None = None
        if self_attention or cross_attention:
            self.attention = Attention(out, width, self_attention, cross_attention)

    def forward(
        self, x: Tensor, state: Tensor, text: Tensor, mask: Tensor, skips: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the level's output, and the output of each of its blocks for skip connections."""
        outputs, skips = [], list(skips)
        if self.shrink is not None:
            x = self.shrink(x)
        for block, takes_skip in zip(self.blocks, self.takes_skip, strict=True):
            x = block(torch.cat([x, SKIP_SCALE * skips.pop()], 1) if takes_skip else x, state)
            outputs.append(x)
        if self.attention is not None:
            x = outputs[-1] = self.attention(x, text, mask)
        if self.grow is not None:
            x = self.grow(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x, outputs
