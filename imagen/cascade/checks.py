"""Check a request before anything is generated, and make its stages, samplers and tensors."""

import sys
import warnings
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

MAX_SEED = 2**60
EQUAL_STRIDES = (DDIMScheduler, PNDMScheduler)  # they stop early if their steps do not divide the model's


class NotPossible(ValueError):
    """A request that can't be served. The message says what to change."""


@dataclass(frozen=True)
class Stage:
    """One model of the cascade."""

    unet: Any
    scheduler: Any
    diffusion: Diffusion
    settings: SampleSettings

    @property
    def side(self) -> int:
        """The side of the stage's images in pixels."""
        return self.diffusion.resolution


def stage_settings(stages: Sequence[Stage], changes: dict[str, Any]) -> list[SampleSettings]:
    """Return the sampling settings of each stage: those saved with the model, with changes.

    Args:
        changes: fields of SampleSettings; a list has a value for each stage.

    Raises:
        NotPossible: a field does not exist, a value is out of range, or a list has another length.
    """
    for name, value in changes.items():
        if name not in SampleSettings.model_fields:
            raise NotPossible(f"there is no setting {name!r}; there are {', '.join(SampleSettings.model_fields)}")
        if isinstance(value, list) and len(value) != len(stages):
            raise NotPossible(f"{name} has {len(value)} values, and the model has {len(stages)} stages")
    every = []
    for number, stage in enumerate(stages):
        own = {name: value[number] if isinstance(value, list) else value for name, value in changes.items()}
        try:
            settings = SampleSettings(**{**stage.settings.model_dump(), **own})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise NotPossible(f"{name} can't be {own.get(name)!r}: {first['msg']}") from None
        trained_steps = stage.diffusion.settings.steps
        if settings.steps > trained_steps:
            raise NotPossible(f"steps can't be {settings.steps}: the model was trained with {trained_steps}")
        every.append(settings)
    return every


def stage_schedulers(
    stages: Sequence[Stage], changes: dict[str, Any], settings: Sequence[SampleSettings]
) -> list[Any | None]:
    """Return the scheduler of each stage. If the request names a sampler, return None for each stage.

    Raises:
        NotPossible: a scheduler does not fit its model or the number of steps.
    """
    if "sampler" in changes:
        return [None for _ in stages]
    for stage, own in zip(stages, settings, strict=True):
        name, trained_steps = type(stage.scheduler).__name__, stage.diffusion.settings.steps
        if isinstance(stage.scheduler, EQUAL_STRIDES) and trained_steps % own.steps:
            raise NotPossible(
                f"the {name} takes steps of equal length: {own.steps} steps do not divide the model's {trained_steps}"
            )
        if not is_compatible(stage.scheduler, stage.diffusion):
            raise NotPossible(
                f"the {name} does not fit the model of {stage.side} pixels: make it with {name}.from_config of the "
                "config of the model's own scheduler, or take a class that uses this noise schedule and calls the "
                "model once a step"
            )
    return [stage.scheduler for stage in stages]


def image_to_tensor(image: Image.Image) -> Tensor:  # 1 3 h w, -1 to 1
    """Convert a square image to a tensor.

    Raises:
        NotPossible: the image is not square.
    """
    if image.width != image.height:
        raise NotPossible(f"the image is {image.width} x {image.height} pixels: it has to be square, crop it")
    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return levels.float() / 127.5 - 1


def mask_to_tensor(mask: Image.Image, image: Image.Image) -> Tensor:  # 1 1 h w, 1 where it is white
    """Convert the mask of an image to a tensor.

    Raises:
        NotPossible: mask and image have different sizes.
    """
    if mask.size != image.size:
        raise NotPossible(
            f"the mask is {mask.width} x {mask.height} pixels and the image {image.width} x {image.height}: "
            "make the mask of the image's size"
        )
    return (torch.from_numpy(np.array(mask.convert("L")))[None, None] > 127).float()


def tensor_to_image(pixels: Tensor) -> Image.Image:  # 3 h w, -1 to 1
    """Convert a tensor to an image with 8 bits per channel."""
    levels = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


def image_seeds(seed: int | Sequence[int], prompts: int, n: int) -> list[int]:
    """Return the seeds of the n images of each prompt, prompt after prompt. Each further image of a prompt adds 1.

    Raises:
        NotPossible: a seed is out of range, or the number of seeds is neither 1 nor the number of prompts.
    """
    firsts = [seed] * prompts if isinstance(seed, int) else list(seed)
    for first in firsts:
        if not 0 <= first <= MAX_SEED:
            raise NotPossible(f"seed is a number from 0 to {MAX_SEED}, not {first}")
    if len(firsts) != prompts:
        raise NotPossible(f"there are {len(firsts)} seeds for {prompts} prompts: give one, or one for each")
    return [first + number for first in firsts for number in range(n)]


def check_stage_count(stages: Sequence[Stage], requested: int | None) -> int:
    """Return the number of stages to run: the requested number, or all.

    Raises:
        NotPossible: the model has fewer stages.
    """
    if requested is not None and not 1 <= requested <= len(stages):
        raise NotPossible(f"the model has {len(stages)} stages: it can't be stopped after {requested}")
    return requested or len(stages)


def warn_caller(pipeline: Any, message: str) -> None:
    """Warn at the line of the user's code that called a pipeline, however deep inside its methods this is."""
    inner_modules = (f"{__name__.rpartition('.')[0]}.", "torch.")
    frame, level = sys._getframe(1), 2
    while frame.f_back and (
        frame.f_locals.get("self") is pipeline or frame.f_globals["__name__"].startswith(inner_modules)
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
