"""Finds the concepts that a caption mentions. A dataset can be balanced by them (MetaCLIP, arXiv 2309.16671)."""

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
    """Finds which concepts from a list file occur in a caption. Matches whole words and ignores case."""

    columns = pa.schema({"matched": pa.list_(pa.string())})
    runs_by: ClassVar[frozenset[str]] = frozenset({"file"})

    file: str = Field(description="file of concepts, one a line, each of one word or several")

    @property
    def id(self) -> str:
        """The scorer's id, which contains a digest of the list's content instead of its path."""
        _, digest, _ = _read_concepts(self.file)
        return f"{super().id}-{digest[:8]}"

    def read(self, caption: str) -> dict[str, Any]:
        """Return the concepts that occur in the caption, sorted."""
        concepts, _, most_words = _read_concepts(self.file)
        words = WORD.findall(caption.lower())
        phrases = set()
        for size in range(1, most_words + 1):
            phrases |= {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}
        return {"matched": sorted(phrases & concepts)}


@lru_cache(maxsize=2)
def _read_concepts(file: str) -> tuple[frozenset[str], str, int]:
    """Return the concepts in a file, the file's digest, and the number of words in the longest concept."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the concepts {file} can't be read: {error}. Correct scores.*.file") from None
    concepts = frozenset(" ".join(WORD.findall(line.lower())) for line in text.splitlines()) - {""}
    if not concepts:
        raise ModelError(f"the file {file} has no concepts. Write one a line")
    return concepts, hashlib.sha256(text.encode()).hexdigest(), max(len(concept.split()) for concept in concepts)
