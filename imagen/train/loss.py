"""One training step's loss: noise is put on pictures, the model says what the objective asks, the error is weighed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.resize import add_conditioning_noise, enlarge, shrink
from imagen.train.batches import Batch


@dataclass(frozen=True)
class Draws:
    times: Tensor  # b, 0 to 1: spread evenly over the whole batch
    noise: Tensor  # b 3 h w
    dropped: Tensor  # b: whose caption is left out
    level: Tensor  # b, 0 to 1: how much noise the smaller picture gets
    small_noise: Tensor  # b 3 h w
    corner: Tensor  # b 2, 0 to 1: where a crop begins
    told: Tensor  # b, 0 to 1: which of a sample's texts is read

    def to(self, device: torch.device) -> "Draws":
        return Draws(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw(seed: int, step: int, places: Sequence[int], total: int, shape: Sequence[int], drop: float) -> Draws:
    """`places` are those of our samples among the `total` of the step, `shape` is that of one picture."""
    first = torch.rand(1, generator=_generator(seed, step, "all"))
    drawn = [_of_one(_generator(seed, step, place), tuple(shape)) for place in places]
    even, noise, small_noise, told = (torch.stack([one[part] for one in drawn]) for part in range(4))
    return Draws(
        times=(first + torch.tensor(places) / total) % 1,
        noise=noise,
        dropped=even[:, 0] < drop,
        level=even[:, 1],
        small_noise=small_noise,
        corner=even[:, 2:],
        told=told[:, 0],
    )


def _of_one(rng: torch.Generator, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """In the order in which they came to be: what is drawn last changes nothing that was drawn before."""
    even, noise, small_noise = (
        torch.rand(4, generator=rng),
        torch.randn(shape, generator=rng),
        torch.randn(shape, generator=rng),
    )
    return even, noise, small_noise, torch.rand(1, generator=rng)


def _generator(*named: object) -> torch.Generator:
    digest = hashlib.sha256(repr(named).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class StageLoss:
    """What a stage learns from."""

    diffusion: Diffusion
    small_side: int | None = None  # pixels of what the stage before makes; none in the base model
    crop: int | None = None
    mix: tuple[float, ...] = ()  # shares of samples that are read by each of their other texts
    most_noise: float = 0.6  # on the smaller picture, of 1: it is made by a model, and has faults (section 2.5)

    def image_shape(self) -> tuple[int, int, int]:
        side = self.crop or self.diffusion.resolution
        return 3, side, side

    def errors(self, unet: nn.Module, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mean squared error and weight of each sample."""
        if self.mix:
            batch = batch.mixed(draws.told, self.mix)
        pixels, small = batch.pixels, None
        if self.small_side:
            small = enlarge(shrink(pixels, self.small_side), pixels.shape[-1])
        if self.crop:
            pixels = crop_at(pixels, draws.corner, self.crop)
            small = None if small is None else crop_at(small, draws.corner, self.crop)
        times = (draws.times * self.diffusion.settings.steps).long().clamp(max=self.diffusion.settings.steps - 1)
        noisy = self.diffusion.add_noise(pixels, draws.noise, times)
        text, seen = batch.text, batch.seen
        if seen is not None:
            seen = seen & ~draws.dropped[:, None]
        more = {}
        if small is not None:
            level = draws.level * self.most_noise
            more = {"small": add_conditioning_noise(small, draws.small_noise, level), "noise": level}
        said = unet(noisy, times, text, seen, **more)
        target = self.diffusion.target(pixels, draws.noise, times)
        errors = (said.float() - target.float()).square().mean((1, 2, 3))
        return errors, self.diffusion.loss_weight(times)


def crop_at(pixels: Tensor, corner: Tensor, side: int) -> Tensor:
    starts = (corner * (pixels.shape[-1] - side + 1)).long().tolist()
    return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in zip(pixels, starts, strict=True)])
