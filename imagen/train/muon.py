"""The Muon optimizer: it updates a layer's weights as a matrix, by an equal distance in each singular direction.

Otherwise strong directions of a gradient (for the colour of a shape) hide weak ones (for the shape itself). The
momentum of a matrix is replaced by an approximation of the closest matrix with orthonormal columns or rows. Five
iterations of matrix products compute it (kellerjordan.github.io/posts/muon). The result is scaled so that the same
learning rates and weight decay suit as for AdamW (arXiv 2502.16982, section 2.2). AdamW updates all other parameters.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration: they raise small singular values fastest
ITERATIONS = 5
ADAMW_RMS = 0.2  # the root mean square of an AdamW step, relative to its learning rate


class Muon(torch.optim.AdamW):
    """Muon for matrices and AdamW for the rest, as one optimizer.

    Args:
        matrices: parameters with two or more dimensions, of which the first is that of the outputs.
        rest: the parameters that AdamW updates.
        lr: the learning rate of Muon and of AdamW.
        options: the options of AdamW.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], lr: float, **options: Any
    ) -> None:
        groups = [{"params": list(matrices), "is_muon": True}, {"params": list(rest), "is_muon": False}]
        super().__init__([group for group in groups if group["params"]], lr, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all parameters."""
        for group in self.param_groups:
            if group["is_muon"]:
                self._update_matrices(group)
        return super().step(closure)

    def _update_matrices(self, group: dict[str, Any]) -> None:
        """Update the matrices, those of one shape at once. Their gradients are removed, so that AdamW skips them."""
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            nesterov = parameter.grad.lerp(momentum, MOMENTUM)
            by_shape.setdefault(parameter.shape, []).append((parameter, nesterov.flatten(1)))
            parameter.grad = None
        for shape, pairs in by_shape.items():
            steps = orthonormalize(torch.stack([nesterov for _, nesterov in pairs]))
            scale = ADAMW_RMS * max(steps.shape[1:]) ** 0.5
            for (parameter, _), step in zip(pairs, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view(shape), alpha=-group["lr"] * scale)


def orthonormalize(matrices: Tensor) -> Tensor:  # n outputs inputs
    """Approximate the nearest matrices with orthonormal rows, or columns if there are more rows."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthonormalize(matrices.mT).mT
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x
