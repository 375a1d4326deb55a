"""From noise to pictures, a stage at a time: guidance, thresholds, any of `diffusers`' samplers, and editing.

x₀ is what the model means at a step: it is guided, brought back into the range of pictures, and handed to the sampler
in the words of its objective, so that every sampler has the same guidance and thresholds.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from imagen.diffusion import Diffusion

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


@dataclass(frozen=True)
class Asked:
    """What the pictures should show, and what they are made from."""

    text: Tensor | None = None  # b n d
    seen: Tensor | None = None  # b n
    against: tuple[Tensor, Tensor] | None = None  # text and seen of what they should not show
    small: Tensor | None = None  # b 3 h w, enlarged and noised to `level`


@dataclass(frozen=True)
class Given:
    """Pictures to begin from: noised up to `strength` (arXiv 2108.01073), or to keep but where the mask is 1."""

    pixels: Tensor  # b 3 h w
    strength: float = 1.0
    mask: Tensor | None = None  # b 1 h w
    repeats: int = 1  # of each step, so that what is painted and what is kept agree (arXiv 2201.09865)


def sample(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    noise: Tensor,  # b 3 h w
    rngs: Sequence[torch.Generator],  # of each picture, for what is drawn on the way
    asked: Asked = Asked(),
    given: Given | None = None,
    scheduler: Any = None,  # one of `diffusers`', in the place of the settings' sampler
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Tensor:
    """Pictures, -1 to 1."""
    scheduler = scheduler or sampler_of(diffusion, settings)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    drawing = {"generator": list(rngs)} if "generator" in inspect.signature(scheduler.step).parameters else {}
    times = scheduler.timesteps
    x = (noise * scheduler.init_noise_sigma).contiguous(memory_format=torch.channels_last)  # faster convolutions
    if given is not None and given.strength < 1:
        skipped = min(len(times) - 1, round(len(times) * (1 - given.strength)))
        times = times[skipped:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        x = diffusion.noised(given.pixels, noise, times[:1].expand(len(x)).long())
    for at, t in enumerate(times):
        now = t.expand(len(x)).long()
        after = times[at + 1].expand(len(x)).long() if at + 1 < len(times) else None
        repeats = given.repeats if given is not None and after is not None else 1
        for left in reversed(range(repeats)):
            meant = _meant(unet, diffusion, settings, x, now, asked)
            x = scheduler.step(_said(diffusion, meant, x, now), t, x, **drawing).prev_sample
            if given is not None and given.mask is not None:
                kept = given.pixels if after is None else diffusion.noised(given.pixels, drawn(rngs, x), after)
                x = given.mask * x + (1 - given.mask) * kept
            if left and after is not None:
                x = diffusion.noised_more(x, drawn(rngs, x), after, now)
        on_step(at + 1, len(times))
    return x.clamp(-1, 1)


def drawn(rngs: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Noise for each picture from its own generator, so that it does not depend on its company."""
    return torch.stack([torch.randn(like.shape[1:], generator=rng, device=rng.device) for rng in rngs]).to(like)


def sampler_of(diffusion: Diffusion, settings: SampleSettings) -> Any:
    given = dict(diffusion.scheduler.config)
    if settings.sampler == "dpm":
        given |= {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    return SAMPLERS[settings.sampler].from_config(given)


def _meant(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    x: Tensor,
    times: Tensor,
    asked: Asked,
) -> Tensor:
    """The picture that the guided model means."""
    more = {}
    if asked.small is not None:
        more = {"small": asked.small, "noise": asked.small.new_full((len(x),), settings.level)}
    first, last = settings.interval
    now = float(times[0]) / diffusion.settings.steps
    if asked.text is None or asked.seen is None or settings.guidance == 1 or not first <= now <= last:
        meant = diffusion.picture(unet(x, times, asked.text, asked.seen, **more), x, times)
    else:
        against, unseen = asked.against or (asked.text, torch.zeros_like(asked.seen))
        twice = {name: torch.cat([value, value]) for name, value in more.items()}
        text, seen = _together((asked.text, asked.seen), (against, unseen))
        both = unet(torch.cat([x, x]), torch.cat([times, times]), text, seen, **twice)
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


def _together(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of two lengths in one batch."""
    longest = max(one[0].shape[1], other[0].shape[1])
    pairs = [(text, seen, longest - text.shape[1]) for text, seen in (one, other)]
    texts = [torch.nn.functional.pad(text, (0, 0, 0, more)) for text, _, more in pairs]
    return torch.cat(texts), torch.cat([torch.nn.functional.pad(seen, (0, more)) for _, seen, more in pairs])


def _said(diffusion: Diffusion, meant: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """What a model would have said that means this picture."""
    a, s = diffusion.scales(times, x)
    if diffusion.settings.objective == "x0":
        return meant
    return (a * x - meant) / s if diffusion.settings.objective == "v" else (x - a * meant) / s
