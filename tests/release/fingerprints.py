"""How answers of two releases are compared: digests of samples and tensors, texts without a folder, and arithmetic.

Nothing here imports the project, so that the release of today and the one before use the same.
"""

import hashlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def digest(value: Any) -> str:
    """Of a tensor with its type and shape, or of any plain value."""
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + content).hexdigest()[:16]
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def digests(sample: dict[str, Any]) -> dict[str, str]:
    return {name: digest(value) for name, value in sorted(sample.items())}


def without(value: Any, folder: str) -> Any:
    """A JSON value in whose texts a folder is called {here}."""
    if isinstance(value, dict):
        return {name: without(part, folder) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without(part, folder) for part in value]
    return value.replace(folder, "{here}") if isinstance(value, str) else value


def arithmetic() -> str:
    """Changes with the library, the processor and the number of threads, wherever these change the bits of a result.

    Some steps of a network of the layers that a U-Net has; none of the project's code takes part.
    """
    rng = torch.Generator().manual_seed(0)
    shapes = ((8, 3, 3, 3), (8, 8, 3, 3), (16, 128), (16, 16), (3, 8, 3, 3))
    weights = [nn.Parameter(torch.randn(shape, generator=rng) / shape[1]) for shape in shapes]
    optimizer = torch.optim.AdamW(weights, 1e-2, fused=True)
    pixels, text = torch.randn(2, 3, 16, 16, generator=rng), torch.randn(2, 12, 128, generator=rng)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        first = F.silu(F.group_norm(F.conv2d(pixels, weights[0], stride=2, padding=1), 2))
        tokens = F.layer_norm(F.linear(text, weights[2]), (16,)) @ weights[3]
        queries = F.conv2d(first, weights[1], padding=1).flatten(2).transpose(1, 2)
        heads = [part.view(2, -1, 2, part.shape[-1] // 2).transpose(1, 2) for part in (queries, tokens[..., :8])]
        read = F.scaled_dot_product_attention(heads[0], heads[1], heads[1]).transpose(1, 2).flatten(2)
        grown = F.interpolate(read.transpose(1, 2).reshape_as(first), scale_factor=2)
        loss = (F.conv2d(grown, weights[4], padding=1) - torch.sin(pixels)).square().mean().sqrt()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    said = [torch.__version__, torch.backends.cpu.get_cpu_capability(), *map(digest, weights)]
    return digest(said)
