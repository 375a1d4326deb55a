"""One training step's loss: noise is put on pictures, the model says what the objective asks, the error is weighed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.resize import augmented, enlarged, shrunk
from imagen.train.batches import Batch
from imagen.train.draws import Draws


@dataclass(frozen=True)
class Lesson:
    """What a stage learns from."""

    diffusion: Diffusion
    small_side: int | None = None  # pixels of what the stage before makes; none in the base model
    crop: int | None = None
    mix: tuple[float, ...] = ()  # shares of samples that are read by each of their other texts
    most_noise: float = 0.6  # on the smaller picture, of 1: it is made by a model, and has faults (section 2.5)

    def shape(self) -> tuple[int, int, int]:
        side = self.crop or self.diffusion.resolution
        return 3, side, side

    def errors(self, unet: nn.Module, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mean squared error and weight of each sample."""
        if self.mix:
            batch = batch.mixed(draws.told, self.mix)
        pixels, small = batch.pixels, None
        if self.small_side:
            small = enlarged(shrunk(pixels, self.small_side), pixels.shape[-1])
        if self.crop:
            pixels = cropped(pixels, draws.corner, self.crop)
            small = None if small is None else cropped(small, draws.corner, self.crop)
        times = (draws.times * self.diffusion.settings.steps).long().clamp(max=self.diffusion.settings.steps - 1)
        noisy = self.diffusion.noised(pixels, draws.noise, times)
        text, seen = batch.text, batch.seen
        if seen is not None:
            seen = seen & ~draws.dropped[:, None]
        more = {}
        if small is not None:
            level = draws.level * self.most_noise
            more = {"small": augmented(small, draws.small_noise, level), "noise": level}
        said = unet(noisy, times, text, seen, **more)
        target = self.diffusion.target(pixels, draws.noise, times)
        errors = (said.float() - target.float()).square().mean((1, 2, 3))
        return errors, self.diffusion.weight(times)


def cropped(pixels: Tensor, corner: Tensor, side: int) -> Tensor:
    starts = (corner * (pixels.shape[-1] - side + 1)).long().tolist()
    return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in zip(pixels, starts, strict=True)])
