"""How a picture was made, written into its PNG, and read again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from imagen.errors import PictureNotUsable

KEY = "imagen"


def save_png(picture: Image.Image, path: Path, made: Sequence[dict[str, Any]]) -> None:
    """Write a picture, or a sheet of several, with what each was made from."""
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(list(made)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG", pnginfo=info)


def read_png(path: Path) -> list[dict[str, Any]]:
    """What the picture, or each of a sheet, was made from."""
    said = getattr(open_picture(path), "text", {}).get(KEY)
    if said is None:
        raise PictureNotUsable(f"{path} does not say how it was made: it is none of ours, or was saved by others since")
    return [dict(one) for one in json.loads(said)]


def open_picture(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise PictureNotUsable(f"{path} is no picture that can be read: {error}") from None
    return picture
