"""How pictures become noise, what a model is asked of a noisy one, and how much each noise level counts.

x_t = √ᾱ_t x + √(1-ᾱ_t) ε. Steps back are `diffusers`' schedulers', made of the same betas by `scheduler`.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from imagen.cascade.settings import DiffusionSettings

PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}  # diffusers' words
MOST_BETA = 0.999
COSINE = 0.008  # keeps the first steps from being too small (arXiv 2102.09672, section 3.2)
REFERENCE = 64  # pixels, up to which a shifted schedule is the cosine one (arXiv 2301.11093, section 2.1)


@dataclass(frozen=True)
class Diffusion:
    settings: DiffusionSettings
    resolution: int

    @cached_property
    def scheduler(self) -> DDPMScheduler:
        """The paper's ancestral sampler, and what others are made from."""
        return DDPMScheduler(
            self.settings.steps,
            trained_betas=make_betas(self.settings, self.resolution).tolist(),
            prediction_type=PREDICTIONS[self.settings.objective],
            rescale_betas_zero_snr=self.settings.zero_terminal_snr,
            timestep_spacing="trailing",
            clip_sample=False,
        )

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ: how much of a picture's power is left at each step."""
        return self.scheduler.alphas_cumprod

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a, s = self.scales(t, x)
        return a * x + s * noise

    def add_more_noise(self, x: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """What is noised to t, noised on to a later step."""
        a = (self.alphas_cumprod.to(x.device)[later] / self.alphas_cumprod.to(x.device)[t]).view(
            -1, *[1] * (x.dim() - 1)
        )
        return a.sqrt().to(x.dtype) * x + (1 - a).clamp(min=0).sqrt().to(x.dtype) * noise

    def step_back(self, x: Tensor, noisy: Tensor, t: Tensor, earlier: Tensor, fresh: Tensor | None = None) -> Tensor:
        """What is noised from x to t, noised to an earlier step: by the same noise, or as far as may be by fresh noise
        (arXiv 2010.02502, equation 12, with eta 0 or 1)."""
        (a, s), (b, r) = self.scales(t, x), self.scales(earlier, x)
        noise = (noisy - a * x) / s
        if fresh is None:
            return b * x + r * noise
        spread = r / s * (1 - (a / b) ** 2).sqrt()
        return b * x + (r**2 - spread**2).clamp(min=0).sqrt() * noise + spread * fresh

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model should say."""
        a, s = self.scales(t, x)
        if self.settings.objective == "v":
            return a * noise - s * x
        return noise if self.settings.objective == "eps" else x

    def predicted_x0(self, said: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The picture that the model means."""
        a, s = self.scales(t, noisy)
        if self.settings.objective == "v":
            return a * noisy - s * said
        return (noisy - s * said) / a if self.settings.objective == "eps" else said

    def loss_weight(self, t: Tensor) -> Tensor:
        """How much the squared error of what is said counts, at each step."""
        gamma = self.settings.min_snr
        if gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        a = self.alphas_cumprod.to(t.device)[t]
        snr = a / (1 - a)
        most = snr.clamp(max=gamma)
        if self.settings.objective == "v":
            return most / (snr + 1)
        return torch.where(snr > 0, most / snr, 1.0) if self.settings.objective == "eps" else most

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alphas_cumprod.to(like.device)[t].view(-1, *[1] * (like.dim() - 1))
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)


def make_betas(settings: DiffusionSettings, resolution: int) -> Tensor:
    if settings.schedule == "linear":
        scale = 1000 / settings.steps
        return torch.linspace(0.0001 * scale, min(MOST_BETA, 0.02 * scale), settings.steps, dtype=torch.float64)
    at = torch.linspace(0, 1, settings.steps + 1, dtype=torch.float64)
    angle = (at + COSINE) / (1 + COSINE) * torch.pi / 2
    noise_to_signal = torch.tan(angle)
    if settings.schedule == "shifted":
        noise_to_signal *= max(1.0, resolution / REFERENCE)
    kept = 1 / (1 + noise_to_signal**2)
    return (1 - kept[1:] / kept[:-1]).clamp(max=MOST_BETA)
