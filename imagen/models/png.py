"""Write the parameters that generated an image into its PNG, and read them back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from imagen.errors import PictureNotUsable

KEY = "imagen"


def save_png(picture: Image.Image, path: Path, parameters: Sequence[dict[str, Any]]) -> None:
    """Write an image, or a sheet of several, with the parameters that generated each."""
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(list(parameters)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG", pnginfo=info)


def read_png(path: Path) -> list[dict[str, Any]]:
    """Read the parameters that generated an image, or each image of a sheet.

    Raises:
        PictureNotUsable: the file is no image, or has no parameters.
    """
    text = getattr(open_picture(path), "text", {}).get(KEY)
    if text is None:
        raise PictureNotUsable(
            f"{path} does not say how it was made: another program made it, or saved it again without its metadata"
        )
    return [dict(parameters) for parameters in json.loads(text)]


def open_picture(path: Path) -> Image.Image:
    """Open an image and decode it.

    Raises:
        PictureNotUsable: the file is missing, damaged, or no image.
    """
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise PictureNotUsable(f"{path} is no image that can be read: {error}") from None
    return picture
