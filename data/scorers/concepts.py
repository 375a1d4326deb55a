"""Which concepts of a list a caption names, for balancing them (MetaCLIP, arXiv 2309.16671)."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from data.errors import ModelError
from data.scorers.scorer import CaptionScorer

WORD = re.compile(r"\w+")


class Concepts(CaptionScorer):
    columns = pa.schema({"matched": pa.list_(pa.string())})
    runs_by: ClassVar[frozenset[str]] = frozenset({"file"})

    file: str = Field(description="a concept a line, of one word or several")

    @property
    def id(self) -> str:
        return f"{super().id}-{_concepts(self.file)[1][:8]}"

    def read(self, caption: str) -> dict[str, Any]:
        concepts, _, longest = _concepts(self.file)
        words = WORD.findall(caption.lower())
        spans = (words[at : at + size] for size in range(1, longest + 1) for at in range(len(words) - size + 1))
        return {"matched": sorted({" ".join(span) for span in spans} & concepts)}


@lru_cache(maxsize=2)
def _concepts(file: str) -> tuple[frozenset[str], str, int]:
    """The concepts of a file, its digest, and the words of the longest."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the concepts {file} can't be read: {error}. Correct scores.*.file") from None
    concepts = frozenset(" ".join(WORD.findall(line.lower())) for line in text.splitlines()) - {""}
    if not concepts:
        raise ModelError(f"the file {file} names no concepts. Write one a line")
    return concepts, hashlib.sha256(text.encode()).hexdigest(), max(len(concept.split()) for concept in concepts)
