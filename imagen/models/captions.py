"""The other direction: what a picture shows, in a sentence, by any captioner. Who writes it lies in the data room."""

import os
from collections.abc import Sequence
from typing import overload

from PIL import Image

from data.scorers.captioner import load

BATCH = 16


@overload
def describe(
    image: Image.Image, model: str | os.PathLike[str] = ..., *, prompt: str | None = ..., max_tokens: int = ...
) -> str: ...


@overload
def describe(
    image: Sequence[Image.Image],
    model: str | os.PathLike[str] = ...,
    *,
    prompt: str | None = ...,
    max_tokens: int = ...,
) -> list[str]: ...


def describe(
    image: Image.Image | Sequence[Image.Image],
    model: str | os.PathLike[str] = "built-in",
    *,
    prompt: str | None = None,
    max_tokens: int = 64,
) -> str | list[str]:
    """A caption of a picture, or of each of several. `model` is 'built-in', a folder, or a hub id."""
    pictures = [image] if isinstance(image, Image.Image) else list(image)
    captioner = load(os.fspath(model))
    said: list[str] = []
    for at in range(0, len(pictures), BATCH):
        said += captioner.say(pictures[at : at + BATCH], prompt, max_tokens)
    return said[0] if isinstance(image, Image.Image) else said
