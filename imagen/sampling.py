"""From noise to pictures, a stage at a time: guidance, thresholds, and any of `diffusers`' samplers.

x₀ is what the model means at a step: it is guided, brought back into the range of pictures, and handed to the sampler
in the words of its objective, so that every sampler has the same guidance and thresholds.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from imagen.diffusion import Diffusion
from imagen.unet import UNet

SAMPLERS: dict[str, Any] = {"dpm": DPMSolverMultistepScheduler, "ddim": DDIMScheduler, "ddpm": DDPMScheduler}


class SampleSettings(BaseModel):
    """How a stage is sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: Literal["dpm", "ddim", "ddpm"] = Field("dpm", description="dpm: DPM-Solver++; ddpm: the paper's ancestral")
    steps: int = Field(30, ge=1)
    guidance: float = Field(5.0, ge=1, description="classifier-free; 1: none")
    interval: tuple[float, float] = Field((0.0, 1.0), description="of time, 1 is noise: where there is guidance")
    rescale: float = Field(0.0, ge=0, le=1, description="how far the spread of what is guided is set back")
    threshold: Literal["dynamic", "static", "none"] = Field("dynamic", description="arXiv 2205.11487, section 2.3")
    percentile: float = Field(0.95, gt=0, le=1, description="of absolute values, by which dynamic thresholds go")
    level: float = Field(0.1, ge=0, le=1, description="of noise that is put on the smaller picture")


def sample(
    unet: UNet,
    diffusion: Diffusion,
    settings: SampleSettings,
    noise: Tensor,  # b 3 h w
    rngs: Sequence[torch.Generator],  # of each picture, for samplers that draw on the way
    text: Tensor | None = None,
    seen: Tensor | None = None,
    small: Tensor | None = None,  # b 3 h w, enlarged and noised to `settings.level`
    on_step: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Pictures, -1 to 1."""
    scheduler = sampler_of(diffusion, settings)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    more = {} if small is None else {"small": small, "noise": noise.new_full((len(noise),), settings.level)}
    x = noise * scheduler.init_noise_sigma
    for at, t in enumerate(scheduler.timesteps):
        times = t.expand(len(x)).long()
        meant = _meant(unet, diffusion, settings, x, times, text, seen, more)
        drawing = {"generator": list(rngs)} if "generator" in inspect.signature(scheduler.step).parameters else {}
        x = scheduler.step(_said(diffusion, meant, x, times), t, x, **drawing).prev_sample
        on_step(at + 1)
    return x.clamp(-1, 1)


def sampler_of(diffusion: Diffusion, settings: SampleSettings) -> Any:
    given = dict(diffusion.scheduler.config)
    if settings.sampler == "dpm":
        given |= {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    return SAMPLERS[settings.sampler].from_config(given)


def _meant(
    unet: UNet,
    diffusion: Diffusion,
    settings: SampleSettings,
    x: Tensor,
    times: Tensor,
    text: Tensor | None,
    seen: Tensor | None,
    more: dict[str, Tensor],
) -> Tensor:
    """The picture that the guided model means."""
    first, last = settings.interval
    now = float(times[0]) / diffusion.settings.steps
    if text is None or seen is None or settings.guidance == 1 or not first <= now <= last:
        meant = diffusion.picture(unet(x, times, text, seen, **more), x, times)
    else:
        twice = {name: torch.cat([value, value]) for name, value in more.items()}
        both = unet(
            torch.cat([x, x]),
            torch.cat([times, times]),
            torch.cat([text, text]),
            torch.cat([seen, torch.zeros_like(seen)]),
            **twice,
        )
        with_text, without = (diffusion.picture(one, x, times) for one in both.chunk(2))
        meant = without + settings.guidance * (with_text - without)
        if settings.rescale:
            spread = with_text.std((1, 2, 3), keepdim=True) / meant.std((1, 2, 3), keepdim=True)
            meant = meant * (settings.rescale * spread + 1 - settings.rescale)
    if settings.threshold == "static":
        return meant.clamp(-1, 1)
    if settings.threshold == "dynamic":
        largest = torch.quantile(meant.abs().flatten(1).float(), settings.percentile, dim=1).clamp(min=1)
        largest = largest[:, None, None, None].to(meant.dtype)
        return meant.clamp(-largest, largest) / largest
    return meant


def _said(diffusion: Diffusion, meant: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """What a model would have said that means this picture."""
    a, s = diffusion.scales(times, x)
    if diffusion.settings.objective == "x0":
        return meant
    return (a * x - meant) / s if diffusion.settings.objective == "v" else (x - a * meant) / s
