"""The loss of one training step: noise is added to images, the model predicts, and the error is weighted."""

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
    """The random numbers for the samples of a batch."""

    times: Tensor  # b, 0 to 1, evenly spaced over the whole batch
    noise: Tensor  # b 3 h w
    dropped: Tensor  # b, true where the caption is dropped
    level: Tensor  # b, 0 to 1: the noise level on the low-resolution image, as a share of the largest
    low_res_noise: Tensor  # b 3 h w
    corner: Tensor  # b 2, 0 to 1: where a crop begins
    text: Tensor  # b, 0 to 1: chooses among a sample's texts

    def to(self, device: torch.device) -> "Draws":
        """Move the random numbers to a device."""
        return Draws(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw(seed: int, step: int, places: Sequence[int], total: int, shape: Sequence[int], drop: float) -> Draws:
    """Draw the random numbers for some samples of a step.

    A sample's numbers depend only on the seed, the step and the sample's place, however many processes share the step.

    Args:
        places: the samples' places in the whole batch.
        total: number of samples in the whole batch.
        shape: the shape of one image.
        drop: the probability that a caption is dropped.
    """
    offset = torch.rand(1, generator=_generator(seed, step, "all"))
    drawn = [_draw_one(_generator(seed, step, place), tuple(shape)) for place in places]
    uniform, noise, low_res_noise, text = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    return Draws(
        times=(offset + torch.tensor(places) / total) % 1,
        noise=noise,
        dropped=uniform[:, 0] < drop,
        level=uniform[:, 1],
        low_res_noise=low_res_noise,
        corner=uniform[:, 2:],
        text=text[:, 0],
    )


def _draw_one(rng: torch.Generator, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Draw one sample's numbers.

    Numbers that a new feature needs are drawn last, so that the others keep their values.
    """
    uniform = torch.rand(4, generator=rng)
    noise = torch.randn(shape, generator=rng)
    low_res_noise = torch.randn(shape, generator=rng)
    return uniform, noise, low_res_noise, torch.rand(1, generator=rng)


def _generator(*key: object) -> torch.Generator:
    """Return a generator seeded by the digest of a key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class StageLoss:
    """Computes the loss of a stage."""

    diffusion: Diffusion
    low_res_side: int | None = None  # pixels of the previous stage's images; None in the base model
    crop: int | None = None  # pixels of a side of the crops that are trained on
    mix: tuple[float, ...] = ()  # the probability of each alternative text
    max_level: float = 0.6  # of noise on the low-resolution image: in sampling a model makes it, with faults

    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of the images that are trained on."""
        side = self.crop or self.diffusion.resolution
        return 3, side, side

    def errors(self, unet: nn.Module, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the mean squared error and the weight of each sample, both of shape b.

        The loss is the mean of their product.
        """
        if self.mix:
            batch = batch.choose_texts(draws.text, self.mix)
        pixels, low_res = batch.pixels, None
        if self.low_res_side:
            low_res = enlarge(shrink(pixels, self.low_res_side), pixels.shape[-1])
        if self.crop:
            pixels = crop_at(pixels, draws.corner, self.crop)
            low_res = None if low_res is None else crop_at(low_res, draws.corner, self.crop)
        steps = self.diffusion.settings.steps
        times = (draws.times * steps).long().clamp(max=steps - 1)
        noisy = self.diffusion.add_noise(pixels, draws.noise, times)
        mask = batch.mask
        if mask is not None:
            mask = mask & ~draws.dropped[:, None]
        inputs = {}
        if low_res is not None:
            level = draws.level * self.max_level
            noisy_low_res = add_conditioning_noise(low_res, draws.low_res_noise, level)
            inputs = {"low_res": noisy_low_res, "noise_level": level}
        prediction = unet(noisy, times, batch.text, mask, **inputs)
        target = self.diffusion.target(pixels, draws.noise, times)
        errors = (prediction.float() - target.float()).square().mean((1, 2, 3))
        return errors, self.diffusion.loss_weight(times)


def crop_at(pixels: Tensor, corner: Tensor, side: int) -> Tensor:
    """Cut crops of `side` pixels. `corner` (b 2) is the position of each crop, from 0 to 1 of the possible range."""
    starts = (corner * (pixels.shape[-1] - side + 1)).long().tolist()
    crops = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(pixels, starts, strict=True)]
    return torch.stack(crops)
