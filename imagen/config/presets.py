"""Cascades by name. The paper's sizes are `imagen-2b`: arXiv 2205.11487 names channels, blocks and where there is
attention, and its counts of parameters; what it leaves open (widths) is chosen so that the counts agree.
"""

from dataclasses import dataclass
from typing import Any

from imagen.config.cascade import CascadeSettings, StageSettings, UNetSettings

T5_XXL_WIDTH = 4096  # width of its embeddings
COARSEST = 8  # pixels of a side of the last level


def cascade_of_size(size: int, resolutions: tuple[int, ...], text_width: int | None) -> CascadeSettings:
    """One dial: `size` is the channels of the base model's finest level; models that enlarge begin with half of it.

    Levels halve the pictures down to 8 pixels. Channels grow by `size` a level, and by doubling up to four times where
    pictures are enlarged, which is learnt on crops of half a side. Pixels read the text where a side is 16 or less and
    attend to each other where it is 8; in a base model of more than 32 pixels they do both where it is 32 or less. A
    base model of 32 pixels is efficient: it learns in the time of one of 16.
    """
    stages = [StageSettings(resolution=resolutions[0], unet=_base(size, resolutions[0]))]
    for side in resolutions[1:]:
        stages.append(StageSettings(resolution=side, unet=_enlarging(max(16, size // 2), side), crop=side // 2))
    return CascadeSettings(stages=tuple(stages), text_width=text_width)


def _base(size: int, side: int) -> UNetSettings:
    efficient = side == 32
    sides = _halved(side // 2 if efficient else side)
    channels = tuple(size * (level + 1) for level in range(len(sides)))
    near = (32, 32) if side > 32 else (8, 16)
    return _shaped(sides, channels, (2,) * len(sides), near, efficient)


def _enlarging(size: int, side: int) -> UNetSettings:
    sides = _halved(side // 2)
    channels = tuple(size * min(4, 2**level) for level in range(len(sides)))
    blocks = tuple(2 if size < 32 else min(4, 2 ** (level + 1)) for level in range(len(sides)))
    return _shaped(sides, channels, blocks, (8, 16), efficient=True)


def _shaped(
    sides: list[int], channels: tuple[int, ...], blocks: tuple[int, ...], near: tuple[int, int], efficient: bool
) -> UNetSettings:
    """Pixels attend to each other, and to the text, where a level's side is no more than said."""
    attend, read = (tuple(side <= most for side in sides) for most in near)
    return UNetSettings(channels=channels, blocks=blocks, attend=attend, read=read, efficient=efficient)


def _halved(side: int) -> list[int]:
    sides = [side]
    while sides[-1] % 2 == 0 and sides[-1] // 2 >= COARSEST:
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
    size: int
    resolutions: tuple[int, ...]
    cascade: CascadeSettings


PRESETS = {
    "tiny": Preset(32, (32, 64), TINY),
    "small": Preset(128, (64, 256), SMALL),
    "imagen-2b": Preset(512, (64, 256, 1024), IMAGEN_2B),
}


def training_of_size(size: int) -> dict[str, Any]:
    """The rules by which a training follows from the dial, from 32 (a laptop) to 512 (the paper): the larger a model,
    the smaller its steps (the paper's 1e-4 from 320 on), the larger its batches (a sample a channel; the paper's 2,048
    are 4), and the more of them (200 steps a channel). Below 64 Muon takes them, four times as far as AdamW would:
    of the few that a CPU has time for, each tells more.
    """
    little = size < 64
    return {
        "optimizer": "muon" if little else "adamw",
        "learning_rate": 0.128 / size if little else max(1e-4, 0.032 / size),
        "batch": size,
        "steps": 200 * size,
        "warmup": 50 if little else 1000,
        "ema": 0.999 if little else 0.9999,
    }
