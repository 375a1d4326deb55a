"""Scorers: facts about pictures and captions, one small class in a file for each subject. For a scorer of your own:
`from data.scorers import PictureScorer, CaptionScorer, VectorScorer, Describer`, see docs/scorers.md.

Belongs here: scorers, the stages that run them, the weights that they load. Not: thresholds on scores (data/select).
Start with `scorer.py`, the classes that scorers derive from; then `pixels.py`, a simple scorer.
"""

from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from data.scorers.scorer import CaptionScorer, Describer, PictureScorer, VectorScorer

__all__ = ["CaptionScorer", "Describer", "PictureScorer", "VectorScorer"]

__getattr__ = exports(__name__, **dict.fromkeys(__all__, "data.scorers.scorer"))
