"""The classes that scorers derive from, under the module's name in 0.1.0.

Scorers written for 0.1.0 go on working; new ones import from `data.scorers`.
"""

from data.scorers.scorer import (
    CaptionScorer,
    Columns,
    Describer,
    PictureScorer,
    PictureVectors,
    Scorer,
    VectorScorer,
    pack_vectors,
    unpack_vectors,
)

packed, unpacked = pack_vectors, unpack_vectors

__all__ = [
    "CaptionScorer",
    "Columns",
    "Describer",
    "PictureScorer",
    "PictureVectors",
    "Scorer",
    "VectorScorer",
    "packed",
    "unpacked",
]
