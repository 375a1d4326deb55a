"""Finds a scorer's class by its short name, or by the dotted path of any class."""

import importlib
from typing import Any

from data.scorers.scorer import Scorer

SCORERS = {
    "caption": "data.scorers.caption.Caption",
    "concepts": "data.scorers.concepts.Concepts",
    "picture": "data.scorers.pixels.PictureFacts",
    "phash": "data.scorers.phash.PerceptualHash",
    "clip": "data.scorers.clip.ClipScore",
    "aesthetic": "data.scorers.heads.Aesthetic",
    "safety": "data.scorers.heads.Safety",
    "watermark": "data.scorers.heads.Watermark",
    "captioner": "data.scorers.captioner.Captioner",
}
MOVED = {  # modules of 0.1.0 that recipes name in dotted paths: where they are now
    "data.scorers.picture": "data.scorers.pixels",
    "imagen.evaluate.extractors": "imagen.metrics.extractors",
    "imagen.evaluate.shapes": "imagen.metrics.shapes",
}
RENAMED = {  # modules of 0.1.0 that a user's scorer may import: where they are now; `data.score` is still there
    "data.picture": "data.pictures.prepare",
    "data.scorers.picture": "data.scorers.pixels",
    "data.weights": "data.scorers.pretrained",
}


def scorer_class(name: str) -> type[Scorer]:
    """The class of a scorer that a recipe names.

    Args:
        name: a key of `SCORERS`, or the dotted path of a class such as `my_scorers.Squareness`.

    Raises:
        ValueError: there is no such class, or it does not derive from `Scorer`.
    """
    module, _, attribute = SCORERS.get(name, name).rpartition(".")
    if not module:
        raise ValueError(f"there is no scorer {name!r}; there are {', '.join(SCORERS)}, or a class by its dotted path")
    try:
        scorer: Any = getattr(importlib.import_module(MOVED.get(module, module)), attribute)
    except (ImportError, AttributeError) as error:
        new = RENAMED.get(getattr(error, "name", None) or "")
        hint = f". {error.name} has moved: import from {new}" if new else ""
        raise ValueError(f"scorer {name!r} can't be imported: {error}{hint}") from None
    if not (isinstance(scorer, type) and issubclass(scorer, Scorer)):
        raise ValueError(f"{name!r} is not a scorer: it must derive from one of the classes in data.scorers")
    return scorer
