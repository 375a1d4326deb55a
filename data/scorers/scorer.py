"""The base classes of scorers. A score is a fact about a picture or a caption, and each scorer computes it only once.

A picture is read and decoded once for all picture scorers that have not scored it yet. One kind of picture scorer
stores CLIP vectors. Vector scorers compute from these vectors, and caption scorers from the text. Neither kind reads a
picture, so adding a head over existing vectors is cheap. Not here: the stages that run scorers (stages.py), and
thresholds (data/select).
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
SCORER_ERRORS = (OSError, ValueError, SyntaxError)  # errors of one picture; their text becomes the row's error
RENAMED_METHODS = {"say": "score_batch", "at_once": "max_batch", "sees": "inputs"}  # names in 0.1.0

Columns = dict[str, Sequence[Any]]


class Scorer(BaseModel):
    """A scorer has settings, the columns of its table, and an id. It is cheap to create and to pickle.

    Its model is loaded only with the first batch. Derive your scorer from one of the classes below, not from this one.

    Attributes:
        columns: the columns that the scorer computes, with their types.
        version: the version of its arithmetic. A new version has a new table, for which all rows are pending.
        runs_by: settings that do not change the scores, such as the device, and so are not part of the id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: ClassVar[pa.Schema]
    version: ClassVar[int] = 1
    runs_by: ClassVar[frozenset[str]] = frozenset()

    scorer: str = Field("", description="name or dotted path of the scorer; its key in the recipe if not given")

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Give each renamed method both names, so that scorers written for 0.1.0 still work.

        Such a scorer may have a setting with one of the new names. The setting keeps the name.
        """
        for old, new in RENAMED_METHODS.items():
            if new in cls.model_fields:
                setattr(cls, new, None)  # hides the method of the base class, and not the instance's setting
            names = {old, new} - cls.model_fields.keys()
            base = next((base for base in cls.__mro__ if vars(base).keys() & names), None)
            if base is None or (base is not cls and issubclass(base, Scorer)):
                continue  # both names are inherited from another scorer
            method = vars(base)[old if old in vars(base) else new]
            for name in names:
                setattr(cls, name, method)

    @property
    def id(self) -> str:
        """The scorer's id: its class, its version, and a digest of all settings that change the scores."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
        settings = self.model_dump_json(exclude={"scorer", *self.runs_by}, exclude_defaults=True)
        digest = "" if settings == "{}" else f"-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        return f"{name}-{self.version}{digest}"

    @cached_property
    def table(self) -> str:
        """The name of the table that stores the scores."""
        return f"scores/{self.id}"

    @property
    def facts(self) -> list[str]:
        """The columns that a dataset gets by default: numbers and texts. A recipe can ask for the others too."""
        return [c.name for c in self.columns if not pa.types.is_binary(c.type) and not pa.types.is_list(c.type)]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the scorer's table: the row's id, the scorer's columns, and the error if there is no score."""
        return pa.schema([("id", pa.string()), *self.columns, ("error", pa.string())])


def method_of(scorer: Scorer, name: str) -> Any:
    """Return a method or property of a scorer, also if a setting has the method's name.

    Args:
        name: `score_batch`, `max_batch` or `inputs`
    """
    old_name = next(old for old, new in RENAMED_METHODS.items() if new == name)
    return getattr(scorer, old_name if name in type(scorer).model_fields else name)


class PictureScorer(Scorer):
    """Scores pictures. A simple scorer overrides only `look`.

    A scorer with a model prepares the picture in `look`, and runs the model in `score_batch`.
    """

    @property
    def max_batch(self) -> int:
        """The number of pictures that `score_batch` gets at once. The last batch of a shard may be smaller."""
        return DECODE_AHEAD

    def look(self, picture: Image.Image) -> Any:
        """Look at one RGB picture; called in a thread, before `score_batch`.

        Returns:
            The picture's scores, keyed by column. If `score_batch` is overridden, its input for this picture instead.

        Raises:
            ValueError: this picture can't be scored. The text becomes the row's error.
        """
        raise NotImplementedError

    def score_batch(self, batch: list[Any]) -> Columns:
        """Return the columns for a batch of one or more pictures, from the values that `look` returned for them."""
        return {name: [row[name] for row in batch] for name in self.columns.names}


class PictureVectors(PictureScorer):
    """Computes a vector for each picture with a model that runs on batches. Vectors are stored as float16."""

    columns = pa.schema({"vector": pa.binary()})

    batch_size: int = Field(32, ge=1, description="pictures that the model gets at once")

    @cached_property
    def table(self) -> str:
        """The name of the table that stores the vectors."""
        return f"embeddings/{self.id}"

    @property
    def max_batch(self) -> int:
        """The batch size."""
        return self.batch_size


class Describer(PictureScorer):
    """Writes a text about each kept picture. It is slow and runs after selection, so criteria cannot use the text."""

    columns = pa.schema({"text": pa.string()})


class VectorScorer(Scorer):
    """Scores pairs from their captions and from the vectors of their pictures that picture scorers have stored."""

    def inputs(self) -> tuple[PictureScorer, ...]:
        """Return the scorers whose vectors are passed to `judge`, in this order."""
        raise NotImplementedError

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """Return the columns for n pictures.

        Args:
            vectors: the vectors (n d) of each scorer in `inputs`, float32.
            captions: the n captions.
        """
        raise NotImplementedError


class CaptionScorer(Scorer):
    """Scores captions, one at a time."""

    def read(self, caption: str) -> dict[str, Any]:
        """Return the caption's scores, keyed by column."""
        raise NotImplementedError


def pack_vectors(vectors: np.ndarray) -> list[bytes]:
    """Convert vectors (n d) to the bytes that a table stores: little-endian float16."""
    return [vector.astype("<f2").tobytes() for vector in vectors]


def unpack_vectors(vectors: Sequence[bytes | None]) -> np.ndarray:
    """Convert stored vectors back to an array (n d), float32. None of the vectors may be null."""
    joined = b"".join(vector for vector in vectors if vector is not None)
    return np.frombuffer(joined, "<f2").reshape(len(vectors), -1).astype(np.float32)
