"""Scorers compute facts about pictures and captions, such as sharpness or language. Each subject has its own file.

A fact is a column that a scorer computes. Your own scorer derives from `PictureScorer`, `CaptionScorer`, `VectorScorer`
or `Describer`, which can be imported from this package (see docs/scorers.md).

Belongs here: scorers, the stages that run them, and the code that loads weights. Does not belong here: thresholds on
scores (data/select). Start with `scorer.py`, the base classes; then read `pixels.py`, a simple scorer.
"""

from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from data.scorers.scorer import CaptionScorer, Describer, PictureScorer, VectorScorer

__all__ = ["CaptionScorer", "Describer", "PictureScorer", "VectorScorer"]

__getattr__, __dir__ = exports(
    __name__,
    CaptionScorer="data.scorers.scorer",
    Describer="data.scorers.scorer",
    PictureScorer="data.scorers.scorer",
    VectorScorer="data.scorers.scorer",
)
