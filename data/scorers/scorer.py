"""The classes that scorers derive from. A score is a fact about a picture or a caption, computed once by each scorer.

Pictures are read and decoded once for all picture scorers that lack them; one such scorer stores CLIP vectors. Vector
scorers compute from these vectors, and caption scorers from the text: neither reads a picture, so a new head over old
pictures is cheap. Not here: the stages that run scorers (stages.py), and thresholds (data/select).
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

DECODE_AHEAD = 128  # pictures that are decoded before they are needed
SCORER_ERRORS = (OSError, ValueError, SyntaxError)  # what a scorer raises, in words, where it can't score a picture
RENAMED = {"say": "score_batch", "at_once": "max_batch", "sees": "inputs"}  # methods by their names in 0.1.0

Columns = dict[str, Sequence[Any]]


class Scorer(BaseModel):
    """Settings, the columns of its table, and an id. Cheap to make and to pickle: the first batch loads the model.

    Derive from one of the classes below, not from this one.

    Attributes:
        columns: the columns that it computes, with their types.
        version: of its arithmetic. Another version has another table, for which all rows are pending.
        runs_by: settings that do not change the scores, such as the device, and so are not part of the id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: ClassVar[pa.Schema]
    version: ClassVar[int] = 1
    runs_by: ClassVar[frozenset[str]] = frozenset()

    scorer: str = Field("", description="name or dotted path of the scorer; its key in the recipe if not given")

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Give a method that was renamed both names, so that scorers written for 0.1.0 go on working."""
        for old, new in RENAMED.items():
            if old in vars(cls):
                setattr(cls, new, vars(cls)[old])
            elif new in vars(cls):
                setattr(cls, old, vars(cls)[new])

    @property
    def id(self) -> str:
        """Names the class, its version, and a digest of all settings that change the scores."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
        settings = self.model_dump_json(exclude={"scorer", *self.runs_by}, exclude_defaults=True)
        digest = "" if settings == "{}" else f"-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        return f"{name}-{self.version}{digest}"

    @cached_property
    def table(self) -> str:
        """The table of its scores."""
        return f"scores/{self.id}"

    @property
    def facts(self) -> list[str]:
        """The columns that a dataset gets by default: numbers and texts. A recipe can ask for the others too."""
        return [c.name for c in self.columns if not pa.types.is_binary(c.type) and not pa.types.is_list(c.type)]

    @property
    def schema(self) -> pa.Schema:
        """The schema of its table: the id, its columns, and why there is no score."""
        return pa.schema([("id", pa.string()), *self.columns, ("error", pa.string())])


class PictureScorer(Scorer):
    """Scores pictures. A simple scorer needs only `look`; one with a model prepares there and runs in `score_batch`."""

    @property
    def max_batch(self) -> int:
        """How many pictures `score_batch` gets at once; the last batch of a shard may be smaller."""
        return DECODE_AHEAD

    def look(self, picture: Image.Image) -> Any:
        """Look at one RGB picture; called in a thread, before `score_batch`.

        Returns:
            The picture's scores by column; or, if `score_batch` is overridden, what that needs of the picture.

        Raises:
            ValueError: no score for this picture. The text becomes the row's error.
        """
        raise NotImplementedError

    def score_batch(self, batch: list[Any]) -> Columns:
        """The columns for what `look` returned, of one or more pictures."""
        return {name: [row[name] for row in batch] for name in self.columns.names}


class PictureVectors(PictureScorer):
    """Computes a vector of each picture, stored as float16, by a model that runs on a batch at a time."""

    columns = pa.schema({"vector": pa.binary()})

    batch_size: int = Field(32, ge=1, description="pictures that the model gets at once")

    @cached_property
    def table(self) -> str:
        """The table of its vectors."""
        return f"embeddings/{self.id}"

    @property
    def max_batch(self) -> int:
        """The batch size."""
        return self.batch_size


class Describer(PictureScorer):
    """Writes a text about each picture that is kept. Expensive: runs after selection, so criteria cannot use it."""

    columns = pa.schema({"text": pa.string()})


class VectorScorer(Scorer):
    """Scores pictures by vectors that picture scorers have stored, and by their captions."""

    def inputs(self) -> tuple[PictureScorer, ...]:
        """The scorers whose vectors `judge` gets, in this order."""
        raise NotImplementedError

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """The columns for n pictures.

        Args:
            vectors: for each scorer of `inputs`, its vectors (n d), float32.
            captions: the n captions.
        """
        raise NotImplementedError


class CaptionScorer(Scorer):
    """Scores captions, one at a time."""

    def read(self, caption: str) -> dict[str, Any]:
        """The caption's scores by column."""
        raise NotImplementedError


def pack_vectors(vectors: np.ndarray) -> list[bytes]:
    """Vectors (n d) as a table stores them: float16, little-endian."""
    return [vector.astype("<f2").tobytes() for vector in vectors]


def unpack_vectors(vectors: Sequence[bytes | None]) -> np.ndarray:
    """The inverse of `pack_vectors`: an array (n d), float32. None of the vectors may be null."""
    joined = b"".join(vector for vector in vectors if vector is not None)
    return np.frombuffer(joined, "<f2").reshape(len(vectors), -1).astype(np.float32)
