"""The base classes of scorers, under the name that their module had in 0.1.0.

So scorers written for 0.1.0 still work. New scorers should import from `data.scorers`.
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
