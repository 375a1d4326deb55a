"""The classes that scorers of one's own are made from, by the name that they had in 0.1.0.

Scorers that were written then go on working; new ones import from `data.scorers.scorer`.
"""

from data.scorers.scorer import (
    CaptionScorer,
    Columns,
    Describer,
    PictureScorer,
    PictureVectors,
    Scorer,
    VectorScorer,
    packed,
    unpacked,
)

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
