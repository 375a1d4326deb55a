"""Finds the class of a scorer by its short name, or by its dotted path."""

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
MOVED_SCORERS = {  # modules of 0.1.0 that recipes name in dotted paths → their names now
    "data.scorers.picture": "data.scorers.pixels",
    "imagen.evaluate.extractors": "imagen.metrics.extractors",
    "imagen.evaluate.shapes": "imagen.metrics.shapes",
}
MOVED_IMPORTS = {  # modules of 0.1.0 that a user's scorer may import → their names now; `data.score` still exists
    "data.picture": "data.pictures.prepare",
    "data.scorers.picture": "data.scorers.pixels",
    "data.weights": "data.scorers.pretrained",
}


def scorer_class(name: str) -> type[Scorer]:
    """Return the class of a scorer that a recipe names.

    Args:
        name: a key of `SCORERS`, or the dotted path of a class such as `my_scorers.Squareness`.

    Raises:
        ValueError: there is no such class, or it does not derive from `Scorer`.
    """
    module, _, attribute = SCORERS.get(name, name).rpartition(".")
    if not module:
        raise ValueError(f"there is no scorer {name!r}; there are {', '.join(SCORERS)}, or a class by its dotted path")
    try:
        scorer: Any = getattr(importlib.import_module(MOVED_SCORERS.get(module, module)), attribute)
    except (ImportError, AttributeError) as error:
        new = MOVED_IMPORTS.get(getattr(error, "name", None) or "")
        hint = f". {error.name} has moved: import from {new}" if new else ""
        raise ValueError(f"scorer {name!r} can't be imported: {error}{hint}") from None
    if not (isinstance(scorer, type) and issubclass(scorer, Scorer)):
        raise ValueError(f"{name!r} is not a scorer: it must derive from one of the classes in data.scorers")
    return scorer
