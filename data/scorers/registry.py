"""Scorers by name, and by the dotted path of a class of one's own."""

import importlib
from typing import Any

from data.scorers.scorer import Scorer

KNOWN = {
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
MOVED = {  # old modules that recipes name by a dotted path, and where these are now
    "data.scorers.picture": "data.scorers.pixels",
    "imagen.evaluate.extractors": "imagen.metrics.extractors",
    "imagen.evaluate.shapes": "imagen.metrics.shapes",
}
RENAMED = {  # old modules that a scorer of one's own may import; `data.score` is still there
    "data.picture": "data.pictures.prepare",
    "data.scorers.picture": "data.scorers.pixels",
    "data.weights": "data.scorers.pretrained",
}


def scorer_class(name: str) -> type[Scorer]:
    """The class behind a scorer's name; ValueError in words where there is none."""
    module, _, attribute = KNOWN.get(name, name).rpartition(".")
    if not module:
        raise ValueError(f"there is no scorer {name!r}; there are {', '.join(KNOWN)}, or a class by its dotted path")
    try:
        found: Any = getattr(importlib.import_module(MOVED.get(module, module)), attribute)
    except (ImportError, AttributeError) as error:
        new = RENAMED.get(getattr(error, "name", None) or "")
        hint = f". {error.name} has moved: import from {new}" if new else ""
        raise ValueError(f"scorer {name!r} can't be imported: {error}{hint}") from None
    if not (isinstance(found, type) and issubclass(found, Scorer)):
        raise ValueError(f"{name!r} is no scorer: it must be a class made from one of those in data/scorers/scorer.py")
    return found
