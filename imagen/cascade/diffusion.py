"""The diffusion process: adding noise, the target of a model's prediction, and the loss weight of each noise level.

x_t = √ᾱ_t x + √(1-ᾱ_t) ε. Sampling is left to diffusers' schedulers, which `scheduler` makes from the same betas.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from imagen.cascade.settings import DiffusionSettings

PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}  # diffusers' names
MAX_BETA = 0.999
COSINE_OFFSET = 0.008  # keeps the first steps from being too small (arXiv 2102.09672, section 3.2)
REFERENCE_SIDE = 64  # pixels, up to which a shifted schedule is the cosine one (arXiv 2301.11093, section 2.1)


@dataclass(frozen=True)
class Diffusion:
    """The diffusion process of one stage.

    In the formulas x is an image, t the time step of each sample, and a² is ᾱ_t.

    """

    settings: DiffusionSettings
    resolution: int

    @cached_property
    def scheduler(self) -> DDPMScheduler:
        """The paper's ancestral sampler. The other samplers are made from its configuration."""
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
        """ᾱ of each step: the share of the signal power that comes from the image."""
        return self.scheduler.alphas_cumprod

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the noisy image at step t."""
        a, s = self.scales(t, x)
        return a * x + s * noise

    def add_more_noise(self, noisy: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Add noise to the noisy image of step t, so that it has the noise level of a later step."""
        alphas = self.alphas_cumprod.to(noisy.device)
        a = _per_image(alphas[later] / alphas[t], noisy)
        return a.sqrt().to(noisy.dtype) * noisy + (1 - a).clamp(min=0).sqrt().to(noisy.dtype) * noise

    def step_back(self, x: Tensor, noisy: Tensor, t: Tensor, earlier: Tensor, fresh: Tensor | None = None) -> Tensor:
        """Return the noisy image at an earlier step, from the predicted image x and the noisy image at step t.

        Without `fresh`, the noise stays the same (DDIM, eta 0). With `fresh`, as much of the noise is replaced by it as
        with eta 1 (arXiv 2010.02502, equation 12).
        """
        (a, s), (b, r) = self.scales(t, x), self.scales(earlier, x)
        noise = (noisy - a * x) / s
        if fresh is None:
            return b * x + r * noise
        sigma = r / s * (1 - (a / b) ** 2).sqrt()
        return b * x + (r**2 - sigma**2).clamp(min=0).sqrt() * noise + sigma * fresh

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the value that the model should predict at step t."""
        a, s = self.scales(t, x)
        if self.settings.objective == "v":
            return a * noise - s * x
        return noise if self.settings.objective == "eps" else x

    def predicted_x0(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Convert a model's prediction to the image x₀."""
        a, s = self.scales(t, noisy)
        if self.settings.objective == "v":
            return a * noisy - s * prediction
        return (noisy - s * prediction) / a if self.settings.objective == "eps" else prediction

    def loss_weight(self, t: Tensor) -> Tensor:
        """Return the weight of the squared error at each step (Min-SNR)."""
        gamma = self.settings.min_snr
        if gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        a = self.alphas_cumprod.to(t.device)[t]
        snr = a / (1 - a)
        clipped = snr.clamp(max=gamma)
        if self.settings.objective == "v":
            return clipped / (snr + 1)
        return torch.where(snr > 0, clipped / snr, 1.0) if self.settings.objective == "eps" else clipped

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ_t and √(1-ᾱ_t) of each sample, shaped so that they can be multiplied with `like`."""
        a = _per_image(self.alphas_cumprod.to(like.device)[t], like)
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)


def make_betas(settings: DiffusionSettings, resolution: int) -> Tensor:
    """Return the betas of a schedule, in float64, before they are rescaled to zero terminal SNR."""
    if settings.schedule == "linear":
        scale = 1000 / settings.steps
        return torch.linspace(0.0001 * scale, min(MAX_BETA, 0.02 * scale), settings.steps, dtype=torch.float64)
    times = torch.linspace(0, 1, settings.steps + 1, dtype=torch.float64)
    angle = (times + COSINE_OFFSET) / (1 + COSINE_OFFSET) * torch.pi / 2
    noise_to_signal = torch.tan(angle)
    if settings.schedule == "shifted":
        noise_to_signal *= max(1.0, resolution / REFERENCE_SIDE)
    alphas_cumprod = 1 / (1 + noise_to_signal**2)
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=MAX_BETA)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per sample (b) to b 1 1 1, with as many dimensions as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
