"""Muon: a layer's weights are changed as the one matrix that they are, equally far in each of its directions.

What a gradient says loudly would else drown what it says softly: the colour of a shape that it is a star. The momentum
of a matrix is brought near the closest one whose columns or rows are orthonormal, by five steps of an iteration that
needs products alone (kellerjordan.github.io/posts/muon), and scaled so that learning rates and decay mean what they
mean to AdamW (arXiv 2502.16982, section 2.2). All other parameters are AdamW's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration: they bring small singular values up fastest
TURNS = 5
LIKE_ADAMW = 0.2  # the root mean square of an AdamW step, of its learning rate


class Muon(torch.optim.AdamW):
    """`matrices` are parameters of two dimensions or more, of which the first says the outputs."""

    def __init__(self, matrices: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], lr: float, **how: Any) -> None:
        groups = [{"params": list(params), "whole": whole} for params, whole in ((matrices, True), (rest, False))]
        super().__init__([group for group in groups if group["params"]], lr, **how)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            if group["whole"]:
                self._turn(group)
        return super().step(closure)

    def _turn(self, group: dict[str, Any]) -> None:
        """A step of the matrices, those of one shape at once. AdamW, which goes by gradients, is left none of them."""
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for one in group["params"]:
            if one.grad is None:
                continue
            state = self.state[one]
            if not state:
                state["momentum"] = torch.zeros_like(one)
            momentum = state["momentum"].lerp_(one.grad, 1 - MOMENTUM)
            ahead = one.grad.lerp(momentum, MOMENTUM)
            alike.setdefault(one.shape, []).append((one, ahead.flatten(1)))
            one.grad = None
        for shape, pairs in alike.items():
            steps = orthonormalize(torch.stack([ahead for _, ahead in pairs]))
            scale = LIKE_ADAMW * max(steps.shape[1:]) ** 0.5
            for (one, _), step in zip(pairs, steps, strict=True):
                one.mul_(1 - group["lr"] * group["weight_decay"])
                one.add_(step.view(shape), alpha=-group["lr"] * scale)


def orthonormalize(matrices: Tensor) -> Tensor:  # n outputs inputs
    """About the nearest matrices with orthonormal rows, or columns if there are more rows."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthonormalize(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(TURNS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x
