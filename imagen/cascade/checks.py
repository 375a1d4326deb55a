"""What is asked of a model, judged before anything is made: whatever is not possible is one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.sampling import is_compatible
from imagen.cascade.settings import SampleSettings

STRIDES = (DDIMScheduler, PNDMScheduler)  # with others than even parts they stop short of a picture


class NotPossible(ValueError):
    """What was asked for can't be made: the sentence says what to change."""


@dataclass(frozen=True)
class Stage:
    """One model of the cascade."""

    unet: Any
    scheduler: Any
    diffusion: Diffusion
    settings: SampleSettings

    @property
    def side(self) -> int:
        return self.diffusion.resolution


def stage_settings(stages: Sequence[Stage], told: dict[str, Any]) -> list[SampleSettings]:
    """Of each stage, as it was saved but for what is told now; a list has a value for each."""
    for name, value in told.items():
        if name not in SampleSettings.model_fields:
            raise NotPossible(f"there is no setting {name!r}; there are {', '.join(SampleSettings.model_fields)}")
        if isinstance(value, list) and len(value) != len(stages):
            raise NotPossible(f"{name} has {len(value)} values, and the model has {len(stages)} stages")
    found = []
    for at, stage in enumerate(stages):
        own = {name: value[at] if isinstance(value, list) else value for name, value in told.items()}
        try:
            settings = SampleSettings(**{**stage.settings.model_dump(), **own})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise NotPossible(f"{name} can't be {own.get(name)!r}: {first['msg']}") from None
        most = stage.diffusion.settings.steps
        if settings.steps > most:
            raise NotPossible(f"steps can't be {settings.steps}: the model was trained with {most}")
        found.append(settings)
    return found


def stage_schedulers(stages: Sequence[Stage], told: dict[str, Any], settings: Sequence[SampleSettings]) -> list[Any]:
    """Of each stage its scheduler, or none where a sampler is told now."""
    if "sampler" in told:
        return [None for _ in stages]
    for stage, own in zip(stages, settings, strict=True):
        name, whole = type(stage.scheduler).__name__, stage.diffusion.settings.steps
        if isinstance(stage.scheduler, STRIDES) and whole % own.steps:
            raise NotPossible(f"the {name} takes strides of one length: {own.steps} steps are no even part of {whole}")
        if not is_compatible(stage.scheduler, stage.diffusion):
            raise NotPossible(
                f"the {name} does not fit the model of {stage.side} pixels: make it with {name}.from_config of the "
                "config of the model's own scheduler, or take a class that knows its noise and asks once a step"
            )
    return [stage.scheduler for stage in stages]


def image_to_tensor(image: Image.Image) -> Tensor:  # 1 3 h w, -1 to 1
    if image.width != image.height:
        raise NotPossible(f"the picture is {image.width} x {image.height} pixels: it has to be square, crop it")
    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return levels.float() / 127.5 - 1


def mask_to_tensor(mask: Image.Image, image: Image.Image) -> Tensor:  # 1 1 h w, 1 where it is white
    if mask.size != image.size:
        raise NotPossible(
            f"the mask is {mask.width} x {mask.height} pixels and the picture {image.width} x {image.height}: "
            "make the mask of the picture's size"
        )
    return (torch.from_numpy(np.array(mask.convert("L")))[None, None] > 127).float()


def check_stage_count(stages: Sequence[Stage], asked: int | None) -> int:
    """How many stages are run."""
    if asked is not None and not 1 <= asked <= len(stages):
        raise NotPossible(f"the model has {len(stages)} stages: it can't be stopped after {asked}")
    return asked or len(stages)
