"""Presets of cascades by name, and rules that compute a cascade and its training from a size.

`imagen-2b` has the paper's sizes. arXiv 2205.11487 gives channels, blocks, the levels with attention, and counts of
parameters. It leaves the widths of embeddings open; they are chosen so that the counts agree.
"""

from dataclasses import dataclass
from typing import Any

from imagen.config.cascade import CascadeSettings, StageSettings, UNetSettings

T5_XXL_WIDTH = 4096  # of its embeddings
COARSEST_SIDE = 8  # pixels of a side at the last level


def cascade_of_size(size: int, resolutions: tuple[int, ...], text_width: int | None) -> CascadeSettings:
    """Return a cascade that is computed from one number, `size`.

    `size` is the number of channels of the base model's finest level; super-resolution models begin with half of it.
    Each level halves the images, down to 8 pixels. In the base model, each level has `size` more channels than the one
    before. In super-resolution models the channels double with each level, up to four times the first; these models are
    trained on crops of half the side length. Levels of 16 pixels and less have cross-attention to the text, and levels
    of 8 pixels have self-attention. In a base model of more than 32 pixels, levels of 32 pixels and less have both. A
    base model of 32 pixels is an Efficient U-Net: it trains as fast as one of 16 pixels.
    """
    stages = [StageSettings(resolution=resolutions[0], unet=_base_unet(size, resolutions[0]))]
    for side in resolutions[1:]:
        unet = _super_resolution_unet(max(16, size // 2), side)
        stages.append(StageSettings(resolution=side, unet=unet, crop=side // 2))
    return CascadeSettings(stages=tuple(stages), text_width=text_width)


def _base_unet(size: int, side: int) -> UNetSettings:
    efficient = side == 32
    sides = _level_sides(side // 2 if efficient else side)
    channels = tuple(size * (level + 1) for level in range(len(sides)))
    self_attention_side, cross_attention_side = (32, 32) if side > 32 else (8, 16)
    return UNetSettings(
        channels=channels,
        blocks=(2,) * len(sides),
        attend=tuple(level_side <= self_attention_side for level_side in sides),
        read=tuple(level_side <= cross_attention_side for level_side in sides),
        efficient=efficient,
    )


def _super_resolution_unet(size: int, side: int) -> UNetSettings:
    sides = _level_sides(side // 2)
    levels = range(len(sides))
    return UNetSettings(
        channels=tuple(size * min(4, 2**level) for level in levels),
        blocks=tuple(2 if size < 32 else min(4, 2 ** (level + 1)) for level in levels),
        attend=tuple(level_side <= 8 for level_side in sides),
        read=tuple(level_side <= 16 for level_side in sides),
        efficient=True,
    )


def _level_sides(side: int) -> list[int]:
    """Return the sides of all levels. A side is halved while it is even and its half is at least COARSEST_SIDE."""
    sides = [side]
    while sides[-1] % 2 == 0 and sides[-1] // 2 >= COARSEST_SIDE:
        sides.append(sides[-1] // 2)
    return sides


IMAGEN_2B = CascadeSettings(
    stages=(
        StageSettings(
            resolution=64,
            unet=UNetSettings(
                channels=(512, 1024, 1536, 2048),
                blocks=(3, 3, 3, 3),
                attend=(False, True, True, True),
                read=(False, True, True, True),
                width=T5_XXL_WIDTH,
            ),
        ),
        StageSettings(
            resolution=256,
            unet=UNetSettings(
                channels=(128, 256, 512, 1024),
                blocks=(2, 4, 8, 8),
                attend=(False, False, False, True),
                read=(False, False, False, True),
                width=2048,
                efficient=True,
            ),
        ),
        StageSettings(
            resolution=1024,
            unet=UNetSettings(
                channels=(128, 256, 512, 1024),
                blocks=(2, 4, 8, 6),
                attend=(False, False, False, False),
                read=(False, False, False, True),
                width=1024,
                efficient=True,
            ),
            crop=256,
        ),
    ),
    text_width=T5_XXL_WIDTH,
)
TINY = cascade_of_size(32, (32, 64), text_width=128)
SMALL = cascade_of_size(128, (64, 256), text_width=768)


@dataclass(frozen=True)
class Preset:
    """A cascade and the numbers that it was computed from. A configuration can change one of these numbers."""

    size: int
    resolutions: tuple[int, ...]
    cascade: CascadeSettings


PRESETS = {
    "tiny": Preset(32, (32, 64), TINY),
    "small": Preset(128, (64, 256), SMALL),
    "imagen-2b": Preset(512, (64, 256, 1024), IMAGEN_2B),
}


def training_of_size(size: int) -> dict[str, Any]:
    """Return the training settings for a size, from 32 (a laptop) to 512 (the paper), as fields of TrainSettings.

    A larger model has a lower learning rate (the paper's 1e-4 from size 320 on), larger batches (one sample per
    channel; the paper has four) and more steps (200 per channel). Below size 64 the optimizer is Muon at four times
    AdamW's learning rate: a CPU has time for few steps, and Muon learns more in each.
    """
    is_small = size < 64
    return {
        "optimizer": "muon" if is_small else "adamw",
        "learning_rate": 0.128 / size if is_small else max(1e-4, 0.032 / size),
        "batch": size,
        "steps": 200 * size,
        "warmup": 50 if is_small else 1000,
        "ema": 0.999 if is_small else 0.9999,
    }
