"""Scorers as a user of the release wrote them: a file of one's own, by the import that the guide to scorers named."""

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from data.score import CaptionScorer, Columns, PictureScorer, VectorScorer
from data.scorers.clip import ClipModel


class Squareness(PictureScorer):
    columns = pa.schema({"ratio": pa.float32()})
    least: float = 0.0

    def look(self, picture: Image.Image) -> dict[str, float]:
        return {"ratio": max(self.least, min(picture.size) / max(picture.size))}


class Light(PictureScorer):
    """Says of several pictures at once."""

    columns = pa.schema({"mean": pa.float32(), "most": pa.int32()})

    @property
    def at_once(self) -> int:
        return 5

    def look(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.convert("L"))

    def say(self, seen: list[np.ndarray]) -> Columns:
        assert len(seen) <= self.at_once
        return {"mean": [round(float(one.mean()), 2) for one in seen], "most": [int(one.max()) for one in seen]}


class Vowels(CaptionScorer):
    columns = pa.schema({"share": pa.float32()})
    version = 2

    def read(self, caption: str) -> dict[str, Any]:
        return {"share": sum(letter in "aeiou" for letter in caption) / max(1, len(caption))}


class Nearness(VectorScorer):
    columns = pa.schema({"first": pa.float32()})

    def sees(self) -> tuple[PictureScorer, ...]:
        return (ClipModel(model="built-in").vectors(),)

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        return {"first": np.round(vectors[0][:, 0], 4).tolist()}
