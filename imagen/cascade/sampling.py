"""From noise to pictures, a stage at a time: guidance, thresholds, any of `diffusers`' samplers, and editing.

x₀ is what the model means at a step: it is guided, brought back into the range of pictures, and handed to the sampler
in the words of its objective, so that every sampler has the same guidance and thresholds. Pictures are float32 on their
way, whatever the model computes in: bfloat16 has fewer levels than a picture.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from imagen.cascade.diffusion import PREDICTIONS, Diffusion
from imagen.cascade.settings import SampleSettings


@dataclass(frozen=True)
class Conditioning:
    """What the pictures should show, and what they are made from."""

    text: Tensor | None = None  # b n d
    seen: Tensor | None = None  # b n
    against: tuple[Tensor, Tensor] | None = None  # text and seen of what they should not show
    small: Tensor | None = None  # b 3 h w, enlarged and noised to `level`


@dataclass(frozen=True)
class StartImage:
    """Pictures to begin from, noised up to `strength` (arXiv 2108.01073)."""

    pixels: Tensor  # b 3 h w
    strength: float


@dataclass(frozen=True)
class KnownPixels:
    """Pictures to keep but where the mask is 1."""

    pixels: Tensor  # b 3 h w
    mask: Tensor  # b 1 h w
    repeats: int  # of each step, so that what is painted and what is kept agree


def sample(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    noise: Tensor,  # b 3 h w
    rngs: Sequence[torch.Generator],  # of each picture, for what is drawn on the way
    asked: Conditioning = Conditioning(),
    given: StartImage | None = None,
    scheduler: Any = None,  # one of `diffusers`', in the place of the settings' sampler
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Tensor:
    """Pictures, -1 to 1."""
    scheduler = scheduler or build_scheduler(diffusion, settings)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    drawing = {"generator": list(rngs)} if "generator" in inspect.signature(scheduler.step).parameters else {}
    times = scheduler.timesteps
    x = (noise * scheduler.init_noise_sigma).contiguous(memory_format=torch.channels_last)  # faster convolutions
    if given is not None and given.strength < 1:
        skipped = min(len(times) - 1, round(len(times) * (1 - given.strength)))
        times = times[skipped:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        x = scheduler.add_noise(given.pixels, noise, times[:1].expand(len(x)))
    for at, t in enumerate(times):
        now = t.expand(len(x)).long()
        scaled = scheduler.scale_model_input(x, t)  # as the model knows it: some samplers let noise grow instead
        meant = predict_x0(unet, diffusion, settings, scaled, now, asked)
        x = scheduler.step(_model_output(diffusion, meant, scaled, now), t, x, **drawing).prev_sample
        on_step(at + 1, len(times))
    return x.clamp(-1, 1)


def repaint(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    noise: Tensor,  # b 3 h w
    rngs: Sequence[torch.Generator],
    asked: Conditioning,
    kept: KnownPixels,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> Tensor:
    """Pictures that are the kept ones but for what is painted (arXiv 2201.09865).

    A step is undone by noise and made again, which no scheduler of `diffusers` that counts its steps can follow.
    """
    x, steps = noise, settings.steps
    times = torch.linspace(diffusion.settings.steps, 0, steps + 1).round().long().to(x.device) - 1
    for at in range(steps):
        now, after = times[at].expand(len(x)), times[at + 1].expand(len(x))
        if at + 1 == steps:
            x = kept.mask * predict_x0(unet, diffusion, settings, x, now, asked) + (1 - kept.mask) * kept.pixels
        for left in reversed(range(kept.repeats if at + 1 < steps else 0)):
            meant = predict_x0(unet, diffusion, settings, x, now, asked)
            fresh = draw_noise(rngs, x) if settings.sampler == "ddpm" else None
            painted = diffusion.step_back(meant, x, now, after, fresh)
            x = kept.mask * painted + (1 - kept.mask) * diffusion.add_noise(kept.pixels, draw_noise(rngs, x), after)
            if left:
                x = diffusion.add_more_noise(x, draw_noise(rngs, x), after, now)
        on_step(at + 1, steps)
    return x.clamp(-1, 1)


def draw_noise(rngs: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Noise for each picture from its own generator, so that it does not depend on its company."""
    return torch.stack([torch.randn(like.shape[1:], generator=rng, device=rng.device) for rng in rngs]).to(like)


def build_scheduler(diffusion: Diffusion, settings: SampleSettings) -> Any:
    """DDIM as DPM-Solver++ of the first order: diffusers' own takes even strides, which may stop short of the end."""
    given = dict(diffusion.scheduler.config)
    if settings.sampler == "ddpm":
        return DDPMScheduler.from_config(given)
    order = 1 if settings.sampler == "ddim" else 2
    more = {"algorithm_type": "dpmsolver++", "solver_order": order, "final_sigmas_type": "zero"}
    return DPMSolverMultistepScheduler.from_config(given | more)


def is_compatible(scheduler: Any, diffusion: Diffusion) -> bool:
    """Whether a sampler has this noise and these words, and asks the model at steps that it knows."""
    kept = getattr(scheduler, "alphas_cumprod", None)
    return (
        kept is not None
        and scheduler.order == 1
        and kept.shape == diffusion.alphas_cumprod.shape
        and torch.allclose(
            kept.float().cpu(), diffusion.alphas_cumprod, atol=1e-3
        )  # some know no noise without a picture
        and scheduler.config.prediction_type == PREDICTIONS[diffusion.settings.objective]
    )


def predict_x0(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    x: Tensor,
    times: Tensor,
    asked: Conditioning,
) -> Tensor:
    """The picture that the guided model means."""
    more = {}
    if asked.small is not None:
        more = {"small": asked.small, "noise": asked.small.new_full((len(x),), settings.level)}
    first, last = settings.interval
    now = float(times[0]) / diffusion.settings.steps
    if asked.text is None or asked.seen is None or settings.guidance == 1 or not first <= now <= last:
        meant = diffusion.predicted_x0(call_unet(unet, x, times, asked.text, asked.seen, more), x, times)
    else:
        against = asked.against or (asked.text, torch.zeros_like(asked.seen))
        text, seen = _join_texts((asked.text, asked.seen), against)
        twice = {name: torch.cat([value, value]) for name, value in more.items()}
        both = call_unet(unet, torch.cat([x, x]), torch.cat([times, times]), text, seen, twice)
        with_text, without = (diffusion.predicted_x0(one, x, times) for one in both.chunk(2))
        meant = without + settings.guidance * (with_text - without)
        if settings.rescale:
            spread = with_text.std((1, 2, 3), keepdim=True) / meant.std((1, 2, 3), keepdim=True)
            meant = meant * (settings.rescale * spread + 1 - settings.rescale)
    if settings.threshold == "static":
        return meant.clamp(-1, 1)
    if settings.threshold == "dynamic":
        largest = torch.quantile(meant.abs().flatten(1), settings.percentile, dim=1).clamp(min=1)
        largest = largest[:, None, None, None]
        return meant.clamp(-largest, largest) / largest
    return meant


def call_unet(
    unet: Callable[..., Tensor],
    x: Tensor,
    times: Tensor,
    text: Tensor | None,
    seen: Tensor | None,
    more: dict[str, Tensor],
) -> Tensor:
    """What the model says, asked in its own precision."""
    dtype = getattr(unet, "dtype", x.dtype)
    if "small" in more:
        more = more | {"small": more["small"].to(dtype)}
    said: Tensor = unet(x.to(dtype), times, text if text is None else text.to(dtype), seen, **more)
    return said.to(x.dtype)


def _join_texts(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of two lengths in one batch."""
    longest = max(one[0].shape[1], other[0].shape[1])
    pairs = [(text, seen, longest - text.shape[1]) for text, seen in (one, other)]
    texts = [torch.nn.functional.pad(text, (0, 0, 0, more)) for text, _, more in pairs]
    return torch.cat(texts), torch.cat([torch.nn.functional.pad(seen, (0, more)) for _, seen, more in pairs])


def _model_output(diffusion: Diffusion, meant: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """What a model would have said that means this picture."""
    a, s = diffusion.scales(times, x)
    if diffusion.settings.objective == "x0":
        return meant
    return (a * x - meant) / s if diffusion.settings.objective == "v" else (x - a * meant) / s
