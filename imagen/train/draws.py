"""What is random in a training step: of each sample by a seed of its own, from the run's, the step, and its place.

So a step is the same however many processes share its batch, and a resumed run draws what it would have drawn.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


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
