"""Sampling: a distribution that is known in closed form comes back, whatever the sampler and the objective."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imagen.diffusion import Diffusion
from imagen.sampling import Asked, SampleSettings, sample
from tests.imagen.test_diffusion import OBJECTIVES, diffusion

MEAN, SPREAD = 0.2, 0.15  # of the toy distribution: pixels are independent and normal


class Perfect(nn.Module):
    """What the best model says of normal pixels: the mean of all pictures that the noisy one may have been."""

    def __init__(self, of: Diffusion, shift: float = 0.0) -> None:
        super().__init__()
        self.of, self.shift = of, shift

    def forward(self, x: Tensor, times: Tensor, text: Any = None, seen: Tensor | None = None) -> Tensor:
        a, s = self.of.scales(times, x)
        mean = MEAN + (0 if seen is None else self.shift * seen.any(1).float().view(-1, 1, 1, 1))
        meant = mean + a * SPREAD**2 / (a**2 * SPREAD**2 + s**2) * (x - a * mean)
        noise = (x - a * meant) / s
        return {"v": a * noise - s * meant, "eps": noise, "x0": meant}[self.of.settings.objective]


def taken(unet: nn.Module, of: Diffusion, settings: SampleSettings, count: int = 64, **more: Any) -> Tensor:
    rngs = [torch.Generator().manual_seed(number) for number in range(count)]
    noise = torch.stack([torch.randn(3, 16, 16, generator=rng) for rng in rngs])
    return sample(unet, of, settings, noise, rngs, Asked(**more))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("sampler", "steps"), [("dpm", 50), ("ddim", 200), ("ddpm", 250)])
def test_the_moments_of_a_known_distribution_come_back(objective: str, sampler: str, steps: int) -> None:
    of = diffusion(objective)
    settings = SampleSettings.model_validate({"sampler": sampler, "steps": steps, "threshold": "none"})
    made = taken(Perfect(of), of, settings)
    assert made.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert made.std().item() == pytest.approx(SPREAD, rel=0.06)


def test_a_picture_is_the_same_whatever_the_batch() -> None:
    of = diffusion()
    for sampler in ("dpm", "ddpm"):
        settings = SampleSettings.model_validate({"sampler": sampler, "steps": 20})
        many, few = (taken(Perfect(of), of, settings, count) for count in (6, 2))
        torch.testing.assert_close(many[:2], few, atol=1e-5, rtol=1e-5)


def test_guidance_goes_beyond_what_the_text_says_and_only_in_its_interval() -> None:
    of, text = diffusion(), torch.zeros(64, 2, 4)
    unet, seen = Perfect(of, shift=0.1), torch.ones(64, 2, dtype=torch.bool)
    means = [
        taken(unet, of, SampleSettings(guidance=guidance, interval=interval, threshold="none"), text=text, seen=seen)
        .mean()
        .item()
        for guidance, interval in ((1, (0.0, 1.0)), (3, (0.0, 1.0)), (3, (0.0, 0.0)))
    ]
    assert means[0] == pytest.approx(MEAN + 0.1, abs=0.01)
    assert means[1] == pytest.approx(MEAN + 0.3, abs=0.02)
    assert means[2] == pytest.approx(means[0], abs=0.001)


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholds_keep_pictures_in_their_range(threshold: str) -> None:
    of, text = diffusion(), torch.zeros(64, 2, 4)
    settings = SampleSettings.model_validate({"guidance": 30, "threshold": threshold})
    made = taken(Perfect(of, shift=0.1), of, settings, text=text, seen=torch.ones(64, 2, dtype=torch.bool))
    assert made.abs().max() <= 1
    clipped = (made.abs() > 0.999).float().mean().item()
    assert clipped > 0.9 if threshold == "static" else clipped < 0.9
