"""Caption images. The captioners themselves are in data/scorers."""

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
    """Caption an image, or each of several.

    Args:
        image: one image, or a list of them.
        model: 'built-in', a folder, or a hub id.
        prompt: the text that the captioner continues, for captioners that take one.
        max_tokens: the maximum length of a caption in tokens.

    Returns:
        A caption, or a list of captions in the order of the images.

    Raises:
        ModelError: the captioner can't be loaded.

    Example:
        describe(Image.open("circle.png"))  # "a large red circle"
    """
    images = [image] if isinstance(image, Image.Image) else list(image)
    captioner = load(os.fspath(model))
    captions: list[str] = []
    for start in range(0, len(images), BATCH):
        captions += captioner.describe(images[start : start + BATCH], prompt, max_tokens)
    return captions[0] if isinstance(image, Image.Image) else captions
