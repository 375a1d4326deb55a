"""A small network trained by our loss on a known distribution finds the best answer there is, and samples it."""

import pytest
import torch
from torch import Tensor, nn

from imagen.cascade.sampling import draw_noise, sample
from imagen.cascade.settings import SampleSettings
from imagen.train.batches import Batch
from imagen.train.loss import StageLoss, draw
from tests.imagen.cascade.test_diffusion import OBJECTIVES, diffusion
from tests.imagen.cascade.test_sampling import MEAN, SPREAD, Perfect

pytestmark = pytest.mark.slow

SIDE, BATCH, STEPS = 8, 64, 2500
WAVES = 8


class PixelNetwork(nn.Module):
    """What to say of a pixel follows from it and the time alone."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.Sequential(
            nn.Linear(1 + 2 * WAVES, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, times: Tensor, text: None = None, mask: None = None) -> Tensor:
        now = times.float()[:, None] / self.steps
        angles = now * torch.pi * 2.0 ** torch.arange(WAVES) / 2
        scale, shift = self.layers(torch.cat([now, angles.sin(), angles.cos()], 1))[:, :, None, None].chunk(2, 1)
        return scale * x + shift


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=() if name == "v" else pytest.mark.nightly) for name in OBJECTIVES]
)
def test_a_small_network_finds_the_best_answer_and_every_sampler_the_distribution(objective: str) -> None:
    torch.manual_seed(0)
    process = diffusion(objective)
    loss, unet = StageLoss(process), PixelNetwork(process.settings.steps)
    optimizer = torch.optim.AdamW(unet.parameters(), 3e-3, weight_decay=0.0)
    rng = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
        pixels = MEAN + SPREAD * torch.randn(BATCH, 3, SIDE, SIDE, generator=rng)
        errors, weights = loss.errors(unet, Batch(pixels), draw(0, step, range(BATCH), BATCH, (3, SIDE, SIDE), 0.0))
        (errors * weights).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimal, rngs = Perfect(process), [torch.Generator().manual_seed(number) for number in range(256)]
    like = torch.empty(256, 3, SIDE, SIDE)
    with torch.no_grad():
        times = torch.linspace(10, process.settings.steps - 10, 256).long()
        noisy = process.add_noise(MEAN + SPREAD * draw_noise(rngs, like), draw_noise(rngs, like), times)
        predicted = process.predicted_x0(unet(noisy, times), noisy, times)
        best = process.predicted_x0(optimal(noisy, times), noisy, times)
        assert (predicted - best).square().mean().sqrt() < 0.1 * SPREAD
        for sampler, steps in (("dpm", 30), ("ddim", 100), ("ddpm", 200)):
            values = {
                "sampler": sampler,
                "steps": steps,
                "threshold": "static",
            }  # near pure noise eps is divided by nothing
            settings = SampleSettings.model_validate(values)
            images = sample(unet, process, settings, draw_noise(rngs, like), rngs)
            assert images.mean() == pytest.approx(MEAN, abs=0.02), sampler
            assert images.std() == pytest.approx(SPREAD, rel=0.12), sampler
