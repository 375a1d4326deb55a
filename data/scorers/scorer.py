"""Scores are facts: what a scorer says of a picture or a caption, a row once for each of them and scorer.

There are three kinds of scorer, and a stage for each. `Look`: a picture is read and decoded once for all scorers that
have not seen it; one of these keeps the vectors of a CLIP model, and one that writes of pictures sees those that are
kept alone. `Judge` says what can be said from such vectors,
`Read` what can be said from the caption alone: neither touches a picture, so a new head over old pictures is cheap.
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

AHEAD = 128  # pictures decoded before they are asked for
UNKNOWN = (OSError, ValueError, SyntaxError)  # what a scorer raises, in words, where it can't say

Columns = dict[str, Sequence[Any]]


class Scorer(BaseModel):
    """Settings, the columns it says, and an id. Cheap to make and to send; models are loaded by the first batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: ClassVar[pa.Schema]
    version: ClassVar[int] = 1  # of its arithmetic: another one is another table, whose work is pending
    runs_by: ClassVar[frozenset[str]] = frozenset()  # settings that don't change what it says

    scorer: str = Field("", description="which scorer; its name in the recipe if not given")

    @property
    def id(self) -> str:
        """Names the scorer, its version, and whatever else changes what it says."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
        settings = self.model_dump_json(exclude={"scorer", *self.runs_by}, exclude_defaults=True)
        digest = "" if settings == "{}" else f"-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        return f"{name}-{self.version}{digest}"

    @cached_property
    def table(self) -> str:
        return f"scores/{self.id}"

    @property
    def facts(self) -> list[str]:
        """The columns that a dataset carries: numbers and words. A recipe may ask for the others too."""
        return [c.name for c in self.columns if not pa.types.is_binary(c.type) and not pa.types.is_list(c.type)]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("id", pa.string()), *self.columns, ("error", pa.string())])


class PictureScorer(Scorer):
    """Looks at pictures: `look` at each in a thread, `say` for many at once. Simple ones need only `look`."""

    @property
    def at_once(self) -> int:
        """How many `say` gets; the last time fewer."""
        return AHEAD

    def look(self, picture: Image.Image) -> Any:
        """What is needed of one picture, as RGB; by default its columns."""
        raise NotImplementedError

    def say(self, seen: list[Any]) -> Columns:
        return {name: [one[name] for one in seen] for name in self.columns.names}


class PictureVectors(PictureScorer):
    """Says of each picture a vector, in float16, by a model that looks at a batch at a time."""

    columns = pa.schema({"vector": pa.binary()})

    batch_size: int = Field(32, ge=1)

    @cached_property
    def table(self) -> str:
        return f"embeddings/{self.id}"

    @property
    def at_once(self) -> int:
        return self.batch_size


class Describer(PictureScorer):
    """Writes a text of each picture that is kept. That is dear, and nothing that selecting could ask for."""

    columns = pa.schema({"text": pa.string()})


class VectorScorer(Scorer):
    """Judges pictures by the vectors that other scorers made of them, and by their captions."""

    def sees(self) -> tuple[PictureScorer, ...]:
        """The scorers whose vectors it judges by."""
        raise NotImplementedError

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """`vectors`: for each that it sees, n × d in float32."""
        raise NotImplementedError


class CaptionScorer(Scorer):
    """Reads captions."""

    def read(self, caption: str) -> dict[str, Any]:
        raise NotImplementedError


def packed(vectors: np.ndarray) -> list[bytes]:
    """Vectors (n d) as a table holds them, little-endian."""
    return [vector.astype("<f2").tobytes() for vector in vectors]


def unpacked(vectors: Sequence[bytes | None]) -> np.ndarray:
    """Vectors as a table holds them, none of them null, as n × d in float32."""
    packed = b"".join(one for one in vectors if one is not None)
    return np.frombuffer(packed, "<f2").reshape(len(vectors), -1).astype(np.float32)
