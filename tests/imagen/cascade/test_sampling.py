"""Sampling: a distribution that is known in closed form comes back, whatever the sampler and the objective."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.sampling import Conditioning, KnownPixels, repaint, sample
from imagen.cascade.settings import SampleSettings
from tests.imagen.cascade.test_diffusion import OBJECTIVES, diffusion

MEAN, SPREAD = 0.2, 0.15  # of the toy distribution: pixels are independent and normal


class Perfect(nn.Module):
    """What the best model says of normal pixels: the mean of all pictures that the noisy one may have been.

    `alike` is the share of the pixels' power that is that of the picture's own mean.
    """

    def __init__(self, process: Diffusion, shift: float = 0.0, alike: float = 0.0) -> None:
        super().__init__()
        self.process, self.shift, self.alike = process, shift, alike

    def forward(self, x: Tensor, times: Tensor, text: Any = None, mask: Tensor | None = None) -> Tensor:
        a, s = self.process.scales(times, x)
        mean = MEAN + (0 if mask is None else self.shift * mask.any(1).float().view(-1, 1, 1, 1))
        power, beyond = SPREAD**2 * (1 - self.alike), x - a * mean
        common = beyond.mean((1, 2, 3), keepdim=True)
        common_power = power + SPREAD**2 * self.alike * x[0].numel()
        x0 = mean + a * power / (a**2 * power + s**2) * (beyond - common)
        x0 = x0 + a * common_power / (a**2 * common_power + s**2) * common
        noise = (x - a * x0) / s
        return {"v": a * noise - s * x0, "eps": noise, "x0": x0}[self.process.settings.objective]


def sample_batch(unet: nn.Module, process: Diffusion, settings: SampleSettings, count: int = 64, **more: Any) -> Tensor:
    rngs = [torch.Generator().manual_seed(number) for number in range(count)]
    noise = torch.stack([torch.randn(3, 16, 16, generator=rng) for rng in rngs])
    return sample(unet, process, settings, noise, rngs, Conditioning(**more))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("sampler", "steps"), [("dpm", 50), ("ddim", 130), ("ddpm", 250)])
def test_the_moments_of_a_known_distribution_come_back(objective: str, sampler: str, steps: int) -> None:
    process = diffusion(objective)
    settings = SampleSettings.model_validate({"sampler": sampler, "steps": steps, "threshold": "none"})
    images = sample_batch(Perfect(process), process, settings)
    assert images.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert images.std().item() == pytest.approx(SPREAD, rel=0.06)


def test_a_picture_is_the_same_whatever_the_batch() -> None:
    process = diffusion()
    for sampler in ("dpm", "ddpm"):
        settings = SampleSettings.model_validate({"sampler": sampler, "steps": 20})
        many, few = (sample_batch(Perfect(process), process, settings, count) for count in (6, 2))
        torch.testing.assert_close(many[:2], few, atol=1e-5, rtol=1e-5)


def test_guidance_exaggerates_the_text_only_in_its_interval() -> None:
    process, text = diffusion(), torch.zeros(64, 2, 4)
    unet, mask = Perfect(process, shift=0.1), torch.ones(64, 2, dtype=torch.bool)
    means = [
        sample_batch(
            unet, process, SampleSettings(guidance=guidance, interval=interval, threshold="none"), text=text, mask=mask
        )
        .mean()
        .item()
        for guidance, interval in ((1, (0.0, 1.0)), (3, (0.0, 1.0)), (3, (0.0, 0.0)))
    ]
    assert means[0] == pytest.approx(MEAN + 0.1, abs=0.01)
    assert means[1] == pytest.approx(MEAN + 0.3, abs=0.02)
    assert means[2] == pytest.approx(means[0], abs=0.001)


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholds_keep_pictures_in_their_range(threshold: str) -> None:
    process, text = diffusion(), torch.zeros(64, 2, 4)
    settings = SampleSettings.model_validate({"guidance": 30, "threshold": threshold})
    images = sample_batch(
        Perfect(process, shift=0.1), process, settings, text=text, mask=torch.ones(64, 2, dtype=torch.bool)
    )
    assert images.abs().max() <= 1
    clipped = (images.abs() > 0.999).float().mean().item()
    assert clipped > 0.9 if threshold == "static" else clipped < 0.9


def inpaint_half(unet: nn.Module, process: Diffusion, settings: SampleSettings, pixels: Tensor, repeats: int) -> Tensor:
    mask = torch.zeros(len(pixels), 1, 16, 16)
    mask[..., 8:] = 1
    rngs = [torch.Generator().manual_seed(number) for number in range(len(pixels))]
    noise = torch.stack([torch.randn(3, 16, 16, generator=rng) for rng in rngs])
    return repaint(unet, process, settings, noise, rngs, Conditioning(), KnownPixels(pixels, mask, repeats))


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 80), ("ddpm", 200)])
def test_painted_pixels_have_the_right_moments_up_to_the_border(sampler: str, steps: int) -> None:
    process = diffusion()
    pixels = MEAN + SPREAD * torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    settings = SampleSettings.model_validate({"sampler": sampler, "steps": steps, "threshold": "none"})
    for repeats in (1, 5):
        images = inpaint_half(Perfect(process), process, settings, pixels, repeats)
        assert torch.equal(images[..., :8], pixels[..., :8].clamp(-1, 1))
        for column in (images[..., 8:], images[..., 8]):
            assert column.mean().item() == pytest.approx(MEAN, abs=0.01)
            assert column.std().item() == pytest.approx(SPREAD, rel=0.1)


def test_repeats_bring_what_is_painted_in_line_with_what_is_kept() -> None:
    """Where pixels are all alike, the painted ones must be as bright as the kept ones of their picture."""
    process = diffusion()
    brightness = MEAN + SPREAD * torch.randn(64, 1, 1, 1, generator=torch.Generator().manual_seed(9))
    settings = SampleSettings.model_validate({"sampler": "ddpm", "steps": 30, "threshold": "none"})
    errors = []
    for repeats in (1, 3, 10):
        pixels = brightness.expand(64, 3, 16, 16)
        painted = inpaint_half(Perfect(process, alike=0.99), process, settings, pixels, repeats)[..., 8:]
        errors.append((painted.mean((1, 2, 3)) - brightness.flatten()).square().mean().sqrt().item())
    assert errors[0] > 1.3 * max(errors[1:])
    assert max(errors[1:]) < 0.05 * SPREAD
