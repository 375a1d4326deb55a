"""Cascades by name, and cascades and trainings by size.

The paper's sizes are `imagen-2b`: arXiv 2205.11487 gives channels, blocks, where there is attention, and counts of
parameters; what it leaves open (widths) is chosen so that the counts agree.
"""

from dataclasses import dataclass
from typing import Any

from imagen.config.cascade import CascadeSettings, StageSettings, UNetSettings

T5_XXL_WIDTH = 4096  # of its embeddings
COARSEST_SIDE = 8  # pixels of a side at the last level


def cascade_of_size(size: int, resolutions: tuple[int, ...], text_width: int | None) -> CascadeSettings:
    """A cascade of which everything follows from one number.

    `size` is the channels of the base model's finest level; super-resolution models begin with half of it. Levels halve
    the images down to 8 pixels. Channels grow by `size` with each level, and in super-resolution models by doubling, up
    to four times; those are trained on crops of half a side. There is cross-attention to the text at levels of 16
    pixels and less, and self-attention at 8; in a base model of more than 32 pixels both are at 32 and less. A base
    model of 32 pixels is efficient: it trains as fast as one of 16.
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
    """The sides of all levels, halved while they are even and no smaller than the coarsest."""
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
    """A cascade with the numbers that it was made from, so that a configuration can change one of them."""

    size: int
    resolutions: tuple[int, ...]
    cascade: CascadeSettings


PRESETS = {
    "tiny": Preset(32, (32, 64), TINY),
    "small": Preset(128, (64, 256), SMALL),
    "imagen-2b": Preset(512, (64, 256, 1024), IMAGEN_2B),
}


def training_of_size(size: int) -> dict[str, Any]:
    """The training that fits a size, from 32 (a laptop) to 512 (the paper), as fields of TrainSettings.

    The larger a model, the lower its learning rate (the paper's 1e-4 from 320 on), the larger its batches (a sample per
    channel; the paper's 2,048 are 4), and the more its steps (200 per channel). Below 64 the optimizer is Muon at four
    times AdamW's learning rate: a CPU has time for few steps, and each learns more.
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
