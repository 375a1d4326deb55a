"""From noise to images, one stage at a time: guidance, thresholds, any sampler of diffusers, and editing.

At each step the model's prediction is converted to the image x₀ that it implies. Guidance is applied to x₀, and x₀ is
clipped to the range of images. Then x₀ is converted back to the model's objective and passed to the sampler. So
guidance and thresholds are the same for every sampler. Images stay in float32 between steps whatever the model's data
type, because bfloat16 has fewer levels than an image.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor
from torch.nn import functional as F

from imagen.cascade.diffusion import PREDICTIONS, Diffusion
from imagen.cascade.resize import shrink
from imagen.cascade.settings import SampleSettings


@dataclass(frozen=True)
class Conditioning:
    """The text and the low-resolution image that a stage's images are conditioned on."""

    text: Tensor | None = None  # b n d
    mask: Tensor | None = None  # b n, true for tokens
    negative: tuple[Tensor, Tensor] | None = None  # text and mask of the negative prompt
    low_res: Tensor | None = None  # b 3 h w, enlarged and noised to the settings' `level`


@dataclass(frozen=True)
class StartImage:
    """Images to begin from, noised up to `strength` (SDEdit, arXiv 2108.01073)."""

    pixels: Tensor  # b 3 h w
    strength: float


@dataclass(frozen=True)
class KnownPixels:
    """The images to inpaint: their pixels are kept except where the mask is 1."""

    pixels: Tensor  # b 3 h w
    mask: Tensor  # b 1 h w
    repeats: int  # of each step, so that the painted part fits the kept one

    def at_size(self, side: int, count: int, device: Any) -> "KnownPixels":
        """Resize the one image to a stage's size and repeat it `count` times.

        A pixel is painted if any of the original pixels that it covers is painted.
        """
        mask = F.adaptive_max_pool2d(self.mask.to(device), side)
        pixels = shrink(self.pixels.to(device), side)
        return KnownPixels(pixels.expand(count, -1, -1, -1), mask.expand(count, -1, -1, -1), self.repeats)


def sample(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    noise: Tensor,  # b 3 h w
    rngs: Sequence[torch.Generator],
    conditioning: Conditioning = Conditioning(),
    start: StartImage | None = None,
    scheduler: Any = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sample a batch of images, -1 to 1.

    Args:
        rngs: a generator for each image; ancestral samplers draw noise from it.
        start: the images to begin from instead of pure noise.
        scheduler: a scheduler of diffusers that replaces the sampler of the settings.
        on_step: called with the number of steps done and their total.
    """
    scheduler = scheduler or build_scheduler(diffusion, settings)
    scheduler.set_timesteps(settings.steps, device=noise.device)
    options = {"generator": list(rngs)} if "generator" in inspect.signature(scheduler.step).parameters else {}
    times = scheduler.timesteps
    x = (noise * scheduler.init_noise_sigma).contiguous(memory_format=torch.channels_last)  # faster convolutions
    if start is not None and start.strength < 1:
        skipped = min(len(times) - 1, round(len(times) * (1 - start.strength)))
        times = times[skipped:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        x = scheduler.add_noise(start.pixels, noise, times[:1].expand(len(x)))
    for index, t in enumerate(times):
        batch_times = t.expand(len(x)).long()
        scaled = scheduler.scale_model_input(x, t)  # some samplers keep noisy images at another scale than the model
        x0 = predict_x0(unet, diffusion, settings, scaled, batch_times, conditioning)
        x = scheduler.step(_as_prediction(diffusion, x0, scaled, batch_times), t, x, **options).prev_sample
        if on_step:
            on_step(index + 1, len(times))
    return x.clamp(-1, 1)


def repaint(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    noise: Tensor,  # b 3 h w
    rngs: Sequence[torch.Generator],
    conditioning: Conditioning,
    known: KnownPixels,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Inpaint a batch of images, -1 to 1 (RePaint, arXiv 2201.09865). Kept pixels come back unchanged.

    Each step is made `known.repeats` times, with noise added between. It uses no scheduler of diffusers: those count
    their steps and can't repeat one.
    """
    x, steps = noise, settings.steps
    times = torch.linspace(diffusion.settings.steps, 0, steps + 1).round().long().to(x.device) - 1
    for index in range(steps):
        now, after = times[index].expand(len(x)), times[index + 1].expand(len(x))
        if index + 1 == steps:
            x0 = predict_x0(unet, diffusion, settings, x, now, conditioning)
            x = known.mask * x0 + (1 - known.mask) * known.pixels
        for repeats_left in reversed(range(known.repeats if index + 1 < steps else 0)):
            x0 = predict_x0(unet, diffusion, settings, x, now, conditioning)
            fresh = draw_noise(rngs, x) if settings.sampler == "ddpm" else None
            painted = diffusion.step_back(x0, x, now, after, fresh)
            kept = diffusion.add_noise(known.pixels, draw_noise(rngs, x), after)
            x = known.mask * painted + (1 - known.mask) * kept
            if repeats_left:
                x = diffusion.add_more_noise(x, draw_noise(rngs, x), after, now)
        if on_step:
            on_step(index + 1, steps)
    return x.clamp(-1, 1)


def draw_noise(rngs: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Draw noise for each image from its own generator, so that the noise does not depend on the rest of the batch."""
    return torch.stack([torch.randn(like.shape[1:], generator=rng, device=rng.device) for rng in rngs]).to(like)


def build_scheduler(diffusion: Diffusion, settings: SampleSettings) -> Any:
    """Return the scheduler of diffusers for a sampler.

    DDIM is made as DPM-Solver++ of the first order: diffusers' DDIM takes steps of equal length only, so with some
    numbers of steps it stops before the last one.
    """
    config = dict(diffusion.scheduler.config)
    if settings.sampler == "ddpm":
        return DDPMScheduler.from_config(config)
    order = 1 if settings.sampler == "ddim" else 2
    solver = {"algorithm_type": "dpmsolver++", "solver_order": order, "final_sigmas_type": "zero"}
    return DPMSolverMultistepScheduler.from_config(config | solver)


def is_compatible(scheduler: Any, diffusion: Diffusion) -> bool:
    """Return whether a scheduler has the model's noise schedule and objective, and calls the model once per step."""
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or scheduler.order != 1 or alphas.shape != diffusion.alphas_cumprod.shape:
        return False
    # The tolerance is for schedulers that allow no step of pure noise.
    same_noise = torch.allclose(alphas.float().cpu(), diffusion.alphas_cumprod, atol=1e-3)
    return same_noise and scheduler.config.prediction_type == PREDICTIONS[diffusion.settings.objective]


def predict_x0(
    unet: Callable[..., Tensor],
    diffusion: Diffusion,
    settings: SampleSettings,
    x: Tensor,
    times: Tensor,
    conditioning: Conditioning,
) -> Tensor:
    """Return the images that the model predicts for noisy images x, with guidance and threshold."""
    text, mask, low_res = conditioning.text, conditioning.mask, conditioning.low_res
    inputs = {}
    if low_res is not None:
        inputs = {"low_res": low_res, "noise_level": low_res.new_full((len(x),), settings.level)}
    first, last = settings.interval
    now = float(times[0]) / diffusion.settings.steps
    if text is None or mask is None or settings.guidance == 1 or not first <= now <= last:
        x0 = diffusion.predicted_x0(call_unet(unet, x, times, text, mask, inputs), x, times)
    else:
        negative = conditioning.negative or (text, torch.zeros_like(mask))
        texts, masks = _join_texts((text, mask), negative)
        doubled = {name: torch.cat([value, value]) for name, value in inputs.items()}
        predictions = call_unet(unet, torch.cat([x, x]), torch.cat([times, times]), texts, masks, doubled)
        positive_x0, negative_x0 = (diffusion.predicted_x0(half, x, times) for half in predictions.chunk(2))
        x0 = negative_x0 + settings.guidance * (positive_x0 - negative_x0)
        if settings.rescale:
            ratio = positive_x0.std((1, 2, 3), keepdim=True) / x0.std((1, 2, 3), keepdim=True)
            x0 = x0 * (settings.rescale * ratio + 1 - settings.rescale)
    if settings.threshold == "static":
        return x0.clamp(-1, 1)
    if settings.threshold == "dynamic":
        largest = torch.quantile(x0.abs().flatten(1), settings.percentile, dim=1).clamp(min=1)
        largest = largest[:, None, None, None]
        return x0.clamp(-largest, largest) / largest
    return x0


def call_unet(
    unet: Callable[..., Tensor],
    x: Tensor,
    times: Tensor,
    text: Tensor | None,
    mask: Tensor | None,
    inputs: dict[str, Tensor],
) -> Tensor:
    """Return the model's prediction. It is computed in the model's data type and returned in the data type of x."""
    dtype = getattr(unet, "dtype", x.dtype)
    if "low_res" in inputs:
        inputs = inputs | {"low_res": inputs["low_res"].to(dtype)}
    prediction: Tensor = unet(x.to(dtype), times, text if text is None else text.to(dtype), mask, **inputs)
    return prediction.to(x.dtype)


def _join_texts(positive: tuple[Tensor, Tensor], negative: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Join two batches of texts and masks, padded to the longer texts."""
    longest = max(positive[0].shape[1], negative[0].shape[1])
    texts, masks = [], []
    for text, mask in (positive, negative):
        missing = longest - text.shape[1]
        texts.append(F.pad(text, (0, 0, 0, missing)))
        masks.append(F.pad(mask, (0, missing)))
    return torch.cat(texts), torch.cat(masks)


def _as_prediction(diffusion: Diffusion, x0: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """Convert the image x0 to a prediction of the model's objective: the inverse of `Diffusion.predicted_x0`."""
    a, s = diffusion.scales(times, x)
    if diffusion.settings.objective == "x0":
        return x0
    return (a * x - x0) / s if diffusion.settings.objective == "v" else (x - a * x0) / s
