"""The algebra of diffusion against diffusers' own, for every objective and schedule."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.settings import DiffusionSettings

OBJECTIVES = ("v", "eps", "x0")
SCHEDULES = ("shifted", "cosine", "linear")


def diffusion(objective: str = "v", schedule: str = "shifted", resolution: int = 32, **more: object) -> Diffusion:
    values = {"objective": objective, "schedule": schedule, "zero_terminal_snr": objective != "eps", **more}
    return Diffusion(DiffusionSettings.model_validate(values), resolution)


def draw_example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(8, 3, 4, 4, generator=rng) for _ in range(2))
    return x, noise, torch.tensor([0, 1, 7, 100, 400, 700, 998, 999])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_noisy_pictures_targets_and_steps_are_those_of_diffusers(objective: str, schedule: str) -> None:
    ours, (x, noise, t) = diffusion(objective, schedule), draw_example()
    theirs = DDPMScheduler.from_config(ours.scheduler.config)
    noisy = ours.add_noise(x, noise, t)
    torch.testing.assert_close(noisy, theirs.add_noise(x, noise, t), atol=1e-5, rtol=1e-5)
    expected = {"v": theirs.get_velocity(x, noise, t), "eps": noise, "x0": x}[objective]
    target = ours.target(x, noise, t)
    torch.testing.assert_close(target, expected, atol=1e-5, rtol=1e-5)
    ddim = DDIMScheduler.from_config(ours.scheduler.config, set_alpha_to_one=False)
    ddim.set_timesteps(ours.settings.steps)
    for index in range(1, len(t) - 1):  # of the first and the last step one of the two is rounding
        stepped = ddim.step(target[index], int(t[index]), noisy[index])
        torch.testing.assert_close(stepped.pred_original_sample, x[index], atol=1e-3, rtol=1e-3)
        predicted = ours.predicted_x0(target[index : index + 1], noisy[index : index + 1], t[index : index + 1])[0]
        torch.testing.assert_close(stepped.pred_original_sample, predicted, atol=1e-5, rtol=1e-5)
        before = ours.add_noise(x[index : index + 1], noise[index : index + 1], t[index : index + 1] - 1)[0]
        torch.testing.assert_close(stepped.prev_sample, before, atol=1e-3, rtol=1e-3)
